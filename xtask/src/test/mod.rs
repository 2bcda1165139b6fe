//! Tests.
use crate::cli::TestArgs;
pub(crate) fn run(_args: &TestArgs) -> anyhow::Result<u8> {
    Ok(0)
}
pub(crate) fn ci() -> anyhow::Result<u8> {
    Ok(0)
}

//! The house rules.
pub(crate) fn run() -> anyhow::Result<u8> {
    Ok(0)
}

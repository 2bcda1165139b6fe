//! Errors that carry an exit status. Anything else that fails is status 4: Herald did not run.

use abi::status::Status;

/// Status for bad arguments or files.
pub(crate) const USAGE: u8 = Status::Usage as u8;

/// An error that ends `xtask` with a status of its own.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Bad arguments or files.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure { status: USAGE, message: message.into() }.into()
}

/// The status that an error ends with.
pub(crate) fn status_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(Status::HeraldFailed as u8, |failure| failure.status)
}

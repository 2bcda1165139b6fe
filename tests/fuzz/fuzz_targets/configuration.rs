//! The configuration file, from whoever edits it: any bytes.
//!
//! What is refused says why, in one line, and names no line that is not there. What is accepted is written and read
//! again as the same, and becomes a configuration that keeps every rule.
#![no_main]

use abi::config::{MAX_VCPUS, MAX_VMS};
use libfuzzer_sys::fuzz_target;
use startup::config::{ConfigError, ConfigFile, LEAST_MEMORY, MAX_NAME_BYTES, Module};

const MODULES: [Module<'_>; 2] =
    [Module { name: "bzImage", entry: 3 }, Module { name: "initramfs.cpio", entry: 5 }];

fuzz_target!(|bytes: &[u8]| {
    let file = match ConfigFile::parse(bytes) {
        Ok(file) => file,
        Err(error) => return check_error(&error, bytes),
    };
    let text = toml::to_string(&file).expect("every file can be written");
    assert_eq!(ConfigFile::parse(text.as_bytes()).as_ref(), Ok(&file), "{text}");
    match file.boot_config(&MODULES) {
        Ok(config) => {
            assert!((1..=MAX_VMS).contains(&config.vms.len()));
            for (index, vm) in config.vms.iter().enumerate() {
                assert!(vm.kernel == 3 || vm.kernel == 5);
                assert!(
                    vm.memory >= LEAST_MEMORY
                        && vm.memory.is_multiple_of(4096)
                        && (1..=MAX_VCPUS).contains(&vm.vcpus)
                );
                assert!((1..=MAX_NAME_BYTES).contains(&vm.name.len()));
                assert!(config.vms[..index].iter().all(|other| other.name != vm.name));
            }
        }
        Err(error) => {
            assert!(matches!(error, ConfigError::NoModule { .. }), "{error:?}");
            check_error(&error, bytes);
        }
    }
});

fn check_error(error: &ConfigError, bytes: &[u8]) {
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let line = match error {
        ConfigError::NotText { line } | ConfigError::Line { line, .. } => *line,
        ConfigError::NoModule { file, .. } => file.line().expect("it was parsed"),
        _ => 1,
    };
    assert!((1..=lines).contains(&line), "{error}");
    if let ConfigError::Line { source, .. } = error {
        let text = std::str::from_utf8(bytes).expect("it was text");
        let there = text.lines().nth(line - 1).unwrap_or("").trim();
        assert!(there.starts_with(source) && (source.is_empty() == there.is_empty()), "{error:?}");
    }
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

//! What the file means, and what an error says of each mistake.

use super::{ConfigFile, MAX_FILE_BYTES, Module, Vm};
use crate::size::Size;
use abi::config::{Backing, LogLevel, Paging};
use alloc::format;
use alloc::string::{String, ToString};

const MODULES: [Module<'_>; 2] =
    [Module { name: "bzImage", entry: 3 }, Module { name: "initramfs.cpio", entry: 5 }];

fn refusal(text: &str) -> String {
    match ConfigFile::parse(text.as_bytes()) {
        Ok(file) => file.boot_config(&MODULES).expect_err("refused").to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_whole_file() {
    let text = r#"
        log = "debug"
        paging = "shadow"
        backing = "huge-pages"
        ept-ad = false
        apic-virtualisation = true
        zero-ahead = false
        [[vm]]
        name = "first"
        kernel = "bzImage"
        initrd = "initramfs.cpio"
        append = "console=ttyS0"
        memory = "1G"
        vcpus = 1
        [[vm]]
        kernel = "bzImage" # nothing else
    "#;
    let file = ConfigFile::parse(text.as_bytes()).expect("accepted");
    let config = file.boot_config(&MODULES).expect("all files are there");
    assert_eq!(
        (config.log, config.paging, config.backing),
        (LogLevel::Debug, Paging::Shadow, Backing::HugePages)
    );
    assert_eq!((config.ept_ad, config.apic_virtualisation, config.zero_ahead), (false, true, false));
    let [first, second] = &config.vms[..] else { panic!("{:?}", config.vms) };
    assert_eq!((first.name, first.kernel, first.initrd), ("first", 3, Some(5)));
    assert_eq!((first.append, first.memory, first.vcpus), ("console=ttyS0", 1 << 30, 1));
    assert_eq!((second.name, second.kernel, second.initrd), ("vm2", 3, None));
    assert_eq!((second.append, second.memory, second.vcpus), ("", 256 << 20, 1));
}

#[test]
fn what_is_written_can_be_read() {
    let mut file = ConfigFile { log: LogLevel::Trace, backing: Backing::Shared, ..ConfigFile::default() };
    let append = "a \"b\"\\\n".to_string();
    file.vms.push(Vm { name: "x".into(), initrd: Some("i".into()), append, ..Vm::new("k") });
    let (balloon, memory_max) = (Some(Size(8 << 20)), Some(Size(12 << 20)));
    let memory = Size(5 << 12 << 12);
    file.vms.push(Vm {
        name: "y".into(),
        memory,
        balloon,
        memory_max,
        memory_weight: 50,
        merge: true,
        ..Vm::new("k")
    });
    let text = toml::to_string(&file).expect("written");
    assert_eq!(ConfigFile::parse(text.as_bytes()).as_ref(), Ok(&file), "{text}");
    assert!(text.contains("log = \"trace\"") && text.contains("memory = \"80M\""), "{text}");
}

#[test]
fn other_editors() {
    let text = "\u{feff}log = \"warn\"\r\n[[vm]]\r\nkernel = \"bzImage\"\r\n";
    assert_eq!(ConfigFile::parse(text.as_bytes()).expect("accepted").log, LogLevel::Warn);
    let text = "log = 'warn'\r\n[[vm]]\r\nkernel = 'x'\r\n";
    assert_eq!(
        refusal(text),
        "configuration, line 3: it names kernel `x`, which is not among the boot modules: bzImage, initramfs.cpio"
    );
}

#[test]
fn mistakes_are_told_with_line_and_value() {
    let vm = "[[vm]]\nkernel = \"bzImage\"\n";
    for (text, error) in [
        ("", "the configuration has no guest: no [[vm]]"),
        (
            "log = \"info\"\nfoo = 1\n",
            "configuration, line 2 `foo = 1`: unknown field `foo`, expected one of `log`, `paging`, `backing`, `ept-ad`, `apic-virtualisation`, `zero-ahead`, `merge-share`, `vm`",
        ),
        (
            "log = \"loud\"\n",
            "configuration, line 1 `log = \"loud\"`: unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, `trace`",
        ),
        ("merge-share = 0", "configuration, line 1 `merge-share = 0`: 0 percent of a processor: 1 to 100"),
        ("ept-ad = 1", "configuration, line 1 `ept-ad = 1`: invalid type: integer `1`, expected a boolean"),
        ("\n[[vm]]\nname = \"a\"\n", "configuration, line 2 `[[vm]]`: missing field `kernel`"),
        ("[vm]\nkernel = \"a\"", "configuration, line 1 `[vm]`: invalid type: map, expected a sequence"),
        (
            "\n\nlog = ",
            "configuration, line 3 `log =`: string values must be quoted, expected literal string",
        ),
        ("log = \"info\"\nlog = \"info\"", "configuration, line 2 `log = \"info\"`: duplicate key"),
    ] {
        assert_eq!(refusal(text), error);
    }
    for (line, error) in [
        (
            "colour = 3",
            "unknown field `colour`, expected one of `name`, `kernel`, `initrd`, `append`, `memory`, `vcpus`, `weight`, `balloon`, `memory_max`, `memory_weight`, `merge`",
        ),
        ("memory = \"12Q\"", "`12Q` is no size; write a number of bytes, or one with K, M or G behind it"),
        ("memory = \"99999999999G\"", "`99999999999G` is more than 64 bits can count"),
        ("memory = \"4M1\"", "`4M1` is no size; write a number of bytes, or one with K, M or G behind it"),
        ("memory = \"3M\"", "3M is too little, a guest needs at least 4M"),
        ("memory = \"5000001\"", "5000001 bytes are not a multiple of 4K"),
        ("memory = 256", "invalid type: integer `256`, expected a size in quotes, like \"256M\""),
        ("balloon = \"2M\"", "2M is too little, a guest needs at least 4M"),
        ("memory_max = \"1M\"", "1M is too little, a guest needs at least 4M"),
        ("memory_weight = 0", "weight 0: 1 to 10000"),
        ("merge = 1", "invalid type: integer `1`, expected a boolean"),
        ("vcpus = 0", "a guest needs a virtual processor"),
        ("vcpus = 33", "33 virtual processors, a guest has at most 32"),
        ("weight = 0", "weight 0: 1 to 10000"),
        ("vcpus = -1", "invalid value: integer `-1`, expected u32"),
        ("name = 7", "invalid type: integer `7`, expected a string"),
    ] {
        assert_eq!(refusal(&format!("{vm}{line}\n")), format!("configuration, line 3 `{line}`: {error}"));
    }
}

#[test]
fn mistakes_of_the_whole_file() {
    let vm = "[[vm]]\nkernel = \"bzImage\"\n";
    assert_eq!(refusal(&vm.repeat(17)), "the configuration has 17 guests, more than 16");
    let same = format!("{vm}name = \"a\"\n{vm}name = \"a\"\n");
    assert_eq!(refusal(&same), "configuration, line 6: a guest is called `a` already, line 3");
    let small = format!("{vm}name = \"a\"\nmemory = \"8M\"\nballoon = \"9M\"\n");
    assert_eq!(refusal(&small), "configuration: `balloon` of guest `a` is more than its memory");
    let given = format!("{vm}name = \"vm2\"\n{vm}");
    assert_eq!(refusal(&given), "configuration: a guest is called `vm2` already, line 3");
    let long = format!("{vm}name = \"{}\"\n", "n".repeat(41));
    assert!(refusal(&long).starts_with("configuration, line 3: name `nnn"), "{}", refusal(&long));
    assert!(refusal(&format!("{vm}name = \"\\u0007\"\n")).contains("`\\u{7}` is longer"));
    assert!(refusal("[[vm]]\nkernel = \"\\bx\"").contains("names kernel `\\u{8}x`"));
    let missing = format!("{vm}initrd = \"x\"\n");
    assert_eq!(
        refusal(&missing),
        "configuration, line 3: it names initrd `x`, which is not among the boot modules: bzImage, initramfs.cpio"
    );
    let file = ConfigFile::parse(vm.as_bytes()).expect("accepted");
    let error = file.boot_config(&[]).expect_err("no modules").to_string();
    assert!(error.ends_with("boot modules: there are none"), "{error}");
}

#[test]
fn no_text() {
    assert_eq!(
        ConfigFile::parse(b"log = 'info'\n\n\xff").expect_err("refused").to_string(),
        "the configuration is not UTF-8 text: line 3"
    );
    let long = " ".repeat(MAX_FILE_BYTES + 1);
    assert!(refusal(&long).contains("65537 bytes"));
    assert!(refusal(&"[".repeat(MAX_FILE_BYTES)).starts_with("configuration, line 1 `[[["));
    let nested = format!("log = {}", "[".repeat(60_000));
    assert!(refusal(&nested).starts_with("configuration, line 1 `log = [[["));
}

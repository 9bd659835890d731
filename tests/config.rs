//! The configuration as a user meets it: file, environment and flags, and what is said when one of them is wrong.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as _, Command, FromArgMatches as _};
use reward_sidecar::config::{self, ConfigError, Flags, Loaded, Origin, SCORE, SERVE};
use reward_sidecar::model::DeviceChoice;
use reward_sidecar::sidecar::{self, OverLong};

/// Loads with a file of the given text (if any), the given variables, and the given flags of `serve`.
fn load(file: Option<&str>, variables: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let mut flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
    if let Some(text) = file {
        let path = folder.path().join("sidecar.toml");
        std::fs::write(&path, text).unwrap();
        flags.push(format!("--config={}", path.display()));
    }
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    config::load(&parse::<SERVE>(&flags), variables)
}

fn parse<const COMMAND: u8>(flags: &[String]) -> Flags<COMMAND> {
    let command = Flags::<COMMAND>::augment_args(Command::new("test").no_binary_name(true));
    Flags::from_arg_matches(&command.get_matches_from(flags)).unwrap()
}

#[track_caller]
fn refused(file: Option<&str>, variables: &[(&str, &str)], flags: &[&str], says: &[&str]) {
    let message = load(file, variables, flags).unwrap_err().to_string();
    for part in says {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn nothing_set_means_the_defaults() {
    let settings = load(None, &[], &[]).unwrap().settings;
    let sidecar = sidecar::Config { grpc: Some("127.0.0.1:50051".parse().unwrap()), ..sidecar::Config::default() };
    assert_eq!(settings.sidecar(), sidecar);
    assert_eq!(settings.admin, Some("127.0.0.1:9464".parse().unwrap()));
    assert!(settings.cache_dir.ends_with("reward-sidecar"));
    assert!(matches!(settings.model(), Err(ConfigError::NoModel)));
}

#[test]
fn flags_beat_the_environment_beats_the_file() {
    let file = "model = \"from-file\"\nmax_wait_ms = 1\nmax_batch_tokens = 1\nthreads = 1\n";
    let variables = [("REWARD_SIDECAR_MAX_WAIT_MS", "2"), ("REWARD_SIDECAR_MAX_BATCH_TOKENS", "2")];
    let loaded = load(Some(file), &variables, &["--max-batch-tokens", "3"]).unwrap();
    let settings = &loaded.settings;
    assert_eq!((settings.max_batch_tokens, settings.max_wait_ms, settings.threads), (3, 2, 1));
    assert_eq!(settings.model().unwrap().model, "from-file");
    assert_eq!(loaded.origin("max_batch_tokens"), Some(&Origin::Flag));
    assert_eq!(loaded.origin("max_wait_ms"), Some(&Origin::Environment));
    assert!(matches!(loaded.origin("threads"), Some(Origin::File(_))));
    assert_eq!(loaded.origin("max_bypass"), Some(&Origin::Default));
}

#[test]
fn the_environment_may_name_the_file_and_a_flag_may_name_another() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (a, b) = (write("a.toml", "threads = 1"), write("b.toml", "threads = 2"));
    let variable = [(OsString::from("REWARD_SIDECAR_CONFIG"), a.into_os_string())];
    let threads = |flags: &[String]| config::load(&parse::<SERVE>(flags), variable.clone()).unwrap().settings.threads;
    assert_eq!(threads(&[]), 1);
    assert_eq!(threads(&[format!("--config={}", b.display())]), 2);
}

#[test]
fn every_kind_of_value() {
    let file = r#"
        grpc = "[::1]:0"
        uds = "/run/sidecar.sock"
        admin = "off"
        share_prefixes = false
        over_long = "truncate-left"
        otlp_endpoint = "http://127.0.0.1:4317"
        log = "debug,h2=warn"
        device = "cuda:2"
    "#;
    let settings = load(Some(file), &[], &[]).unwrap().settings;
    assert_eq!(settings.device, DeviceChoice::Cuda(2));
    assert_eq!(settings.grpc, Some("[::1]:0".parse().unwrap()));
    assert_eq!(settings.uds, Some(PathBuf::from("/run/sidecar.sock")));
    assert_eq!(settings.admin, None);
    assert!(!settings.share_prefixes);
    assert_eq!(settings.over_long, OverLong::TruncateLeft);
    assert_eq!(settings.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
    // What a file switches on, a flag can switch off.
    let flags = ["--otlp-endpoint=off", "--uds=off", "--share-prefixes=true"];
    let settings = load(Some(file), &[], &flags).unwrap().settings;
    assert_eq!((settings.otlp_endpoint, settings.uds, settings.share_prefixes), (None, None, true));
}

#[test]
fn a_unix_socket_alone_opens_no_port() {
    let settings = load(None, &[], &["--uds", "a.sock"]).unwrap().settings;
    assert_eq!((settings.grpc, settings.uds), (None, Some("a.sock".into())));
    let settings = load(None, &[], &["--uds", "a.sock", "--grpc", "127.0.0.1:7"]).unwrap().settings;
    assert!(settings.grpc.is_some() && settings.uds.is_some());
    let settings = load(None, &[], &["--shm", "a.sock"]).unwrap().settings;
    assert_eq!((settings.grpc, settings.shm), (None, Some("a.sock".into())));
    let settings = load(None, &[], &["--grpc", "off"]).unwrap().settings;
    assert!(matches!(settings.check_listens(), Err(ConfigError::NothingToListenOn)));
}

#[test]
fn an_address_may_be_a_name_or_a_port_alone() {
    let settings = load(None, &[], &["--grpc", "localhost:50051", "--admin", ":9464"]).unwrap().settings;
    assert_eq!(settings.grpc, Some("127.0.0.1:50051".parse().unwrap()));
    assert_eq!(settings.admin, Some("0.0.0.0:9464".parse().unwrap()));
    // Nobody is asked for the address of a server that is not started.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.toml");
    std::fs::write(&path, "grpc = \"no-such-host.invalid:1\"").unwrap();
    let flags = parse::<SCORE>(&[format!("--config={}", path.display())]);
    assert_eq!(config::load(&flags, []).unwrap().settings.grpc, None);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    refused(Some("max_batch_token = 5"), &[], &[], &["sidecar.toml", "'max_batch_token'", "'max_batch_tokens'"]);
    refused(Some("max-batch-tokens = 5"), &[], &[], &["'max_batch_tokens'"]);
    refused(Some("colour = 5"), &[], &[], &["there is no setting 'colour'"]);
    assert!(!load(Some("colour = 5"), &[], &[]).unwrap_err().to_string().contains("did you mean"));
    let variables = [("REWARD_SIDECAR_MODLE", "demo")];
    refused(None, &variables, &[], &["environment", "REWARD_SIDECAR_MODLE", "REWARD_SIDECAR_MODEL"]);
}

#[test]
fn variables_of_others_are_none_of_ours() {
    let kubernetes = [
        ("REWARD_SIDECAR_SERVICE_HOST", "10.0.0.1"),
        ("REWARD_SIDECAR_SERVICE_PORT_GRPC", "50051"),
        ("REWARD_SIDECAR_PORT", "tcp://10.0.0.1:50051"),
        ("REWARD_SIDECAR_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("REWARD_SIDECAR_METRICS_SERVICE_HOST", "10.0.0.7"),
        ("REWARD_SIDECAR_METRICS_SERVICE_PORT", "9464"),
        ("REWARD_SIDECAR_METRICS_SERVICE_PORT_HTTP", "9464"),
        ("REWARD_SIDECAR_METRICS_PORT", "tcp://10.0.0.7:9464"),
        ("REWARD_SIDECAR_METRICS_PORT_9464_TCP_PROTO", "tcp"),
        ("PATH", "/bin"),
        ("REWARD", "x"),
    ];
    assert!(load(None, &kubernetes, &[]).unwrap().unknown_variables.is_empty());
}

/// What looks like no setting is somebody else's; it is told to the log, and the server starts.
#[test]
fn unknown_variables_do_not_keep_anything_from_starting() {
    let variables = [("REWARD_SIDECAR_IMAGE", "x"), ("REWARD_SIDECAR_COLOUR_OF_THE_SKY", "y")];
    let loaded = load(None, &variables, &[]).unwrap();
    assert_eq!(loaded.unknown_variables, ["REWARD_SIDECAR_COLOUR_OF_THE_SKY", "REWARD_SIDECAR_IMAGE"]);
    assert_eq!(loaded.settings, load(None, &[], &[]).unwrap().settings);
}

const HUNTER2: &str = "authorization=Bearer hunter2";

/// A file with this content, that lives as long as the folder.
fn secret_file(content: &[u8]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("headers");
    std::fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[track_caller]
fn headers(loaded: Result<Loaded, ConfigError>) -> Option<String> {
    loaded.unwrap().settings.otlp_headers.map(|secret| secret.reveal().to_owned())
}

#[test]
fn a_secret_comes_from_the_file_the_environment_or_a_file_of_its_own() {
    let variable = [("REWARD_SIDECAR_OTLP_HEADERS", HUNTER2)];
    let in_file = format!("otlp_headers = '{HUNTER2}'");
    assert_eq!(headers(load(None, &[], &[])), None);
    assert_eq!(headers(load(Some(&in_file), &[], &[])).as_deref(), Some(HUNTER2));
    assert_eq!(headers(load(None, &variable, &[])).as_deref(), Some(HUNTER2));
    // One line end is the editor's, everything else the secret's.
    for (content, secret) in [("a=b", "a=b"), ("a=b\n", "a=b"), ("a=b\r\n", "a=b"), ("a=b \n\n", "a=b \n")] {
        let (_folder, path) = secret_file(content.as_bytes());
        let by_variable = [("REWARD_SIDECAR_OTLP_HEADERS_FILE", path.as_str())];
        assert_eq!(headers(load(None, &by_variable, &[])).as_deref(), Some(secret));
        assert_eq!(headers(load(None, &[], &["--otlp-headers-file", &path])).as_deref(), Some(secret));
        let by_file = format!("otlp_headers_file = '{path}'");
        assert_eq!(headers(load(Some(&by_file), &[], &[])).as_deref(), Some(secret));
        // The later layer counts, and it can switch off.
        assert_eq!(headers(load(Some(&by_file), &variable, &[])).as_deref(), Some(HUNTER2));
        assert_eq!(headers(load(Some(&by_file), &[("REWARD_SIDECAR_OTLP_HEADERS", "off")], &[])), None);
        assert_eq!(headers(load(Some(&in_file), &by_variable, &[])).as_deref(), Some(secret));
        assert_eq!(headers(load(Some(&by_file), &[], &["--otlp-headers-file", "off"])), None);
    }
}

#[test]
fn nothing_that_is_printed_shows_a_secret() {
    let (_folder, path) = secret_file(HUNTER2.as_bytes());
    let variable = [("REWARD_SIDECAR_OTLP_HEADERS", HUNTER2)];
    let in_file = format!("otlp_headers = '{HUNTER2}'");
    for (loaded, line) in [
        (load(Some(&in_file), &[], &[]), "# otlp_headers = \"***\" # file ".to_owned()),
        (load(None, &variable, &[]), "# otlp_headers = \"***\" # environment REWARD_SIDECAR_OTLP_HEADERS;".to_owned()),
        (load(None, &[], &["--otlp-headers-file", &path]), format!("otlp_headers_file = \"{path}\" # flag")),
    ] {
        let loaded = loaded.unwrap();
        let printed = loaded.to_toml();
        assert!(printed.contains(&format!("\n{line}")), "{printed}");
        for text in [&printed, &format!("{loaded:?}"), &format!("{:#?}", loaded.settings)] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        // What was printed is a configuration; a secret that was given by itself is missing there, one in a file is not.
        let again = load(Some(&printed), &[], &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        let expected = loaded.settings.otlp_headers.clone().filter(|_| loaded.settings.otlp_headers_file.is_some());
        assert_eq!(again.settings.otlp_headers, expected);
    }
}

#[test]
fn errors_about_a_secret_do_not_show_it() {
    let (folder, path) = secret_file(b"hunter2 \xff");
    let (_empty, empty) = secret_file(b"\n");
    let (_long, long) = secret_file(&b"hunter2".repeat(10_000));
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let file = |path: &str| vec![("REWARD_SIDECAR_OTLP_HEADERS_FILE", path.to_owned())];
    let both = [file(&path), vec![("REWARD_SIDECAR_OTLP_HEADERS", "hunter2".into())]].concat();
    let cases = [
        ("otlp_headers = ['hunter2']", vec![], "otlp_headers must be text"),
        ("otlp_headers = {a = 'hunter2'}", vec![], "a value that is not shown"),
        ("otlp_headers = '***'", vec![], "stands for a secret"),
        ("threads = 1\notlp_headers = 'hunter2", vec![], "line 2"),
        ("otlp_headers = hunter2", vec![], "line 1"),
        ("otlp_headers = 'hunter2' 'hunter2'", vec![], "line 1"),
        ("otlp_headers = \"hunter2\\q\"", vec![], "line 1"),
        ("otlp_headers = 'hunter2'\notlp_headers = 'hunter2'", vec![], "line 2"),
        ("", vec![("REWARD_SIDECAR_OTLP_HEADERS", String::new())], "REWARD_SIDECAR_OTLP_HEADERS"),
        ("", both, "both set"),
        ("", file(&path), "it is not UTF-8"),
        ("", file(&empty), "it is empty"),
        ("", file(&long), "longer than 65536 bytes"),
        ("", file(&missing), "No such file"),
    ];
    for (file, variables, says) in cases {
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let error = load(Some(file), &variables, &[]).unwrap_err();
        let (message, debug) = (error.to_string(), format!("{error:?}"));
        assert!(message.contains(says), "{message:?} lacks {says:?}");
        assert!(!message.contains("hunter2") && !debug.contains("hunter2"), "{debug}");
    }
    let not_utf8 = std::os::unix::ffi::OsStringExt::from_vec(b"hunter2\xff".to_vec());
    let error = config::load(&parse::<SERVE>(&[]), [("REWARD_SIDECAR_OTLP_HEADERS".into(), not_utf8)]).unwrap_err();
    assert!(error.to_string().contains("UTF-8") && !format!("{error} {error:?}").contains("hunter2"), "{error}");
}

/// Everybody on a machine can read the command line of a process.
#[test]
fn a_secret_is_no_flag() {
    let command = Flags::<SERVE>::augment_args(Command::new("serve").no_binary_name(true));
    assert!(command.try_get_matches_from(["--otlp-headers", "a=b"]).is_err());
}

#[test]
fn wrong_types_name_key_and_source() {
    refused(Some("threads = \"two\""), &[], &[], &["sidecar.toml", "threads", "a whole number", "'two'"]);
    refused(Some("threads = 1.5"), &[], &[], &["threads", "the number 1.5"]);
    refused(Some("[grpc]\naddr = 1"), &[], &[], &["grpc", "a table"]);
    refused(Some("share_prefixes = \"yes\""), &[], &[], &["share_prefixes must be true or false"]);
    refused(None, &[("REWARD_SIDECAR_THREADS", "two")], &[], &["REWARD_SIDECAR_THREADS", "'two'"]);
    refused(None, &[("REWARD_SIDECAR_UDS", "")], &[], &["REWARD_SIDECAR_UDS", "''"]);
    refused(None, &[], &["--grpc", "localhost"], &["--grpc", "127.0.0.1:50051", "'localhost'"]);
    refused(None, &[], &["--grpc", "no-such-host.invalid:1"], &["--grpc", "no-such-host.invalid:1", "cannot find"]);
    refused(None, &[], &["--over-long", "cut"], &["--over-long", "reject, truncate-left"]);
    refused(None, &[], &["--log", "info,="], &["--log"]);
    refused(None, &[], &["--log", "inof"], &["--log", "'inof'; did you mean 'info'?"]);
    refused(Some("log = \"verbose\""), &[], &[], &["log must be a level", "did you mean 'debug'?"]);
    refused(None, &[], &["--over-long", "truncate"], &["did you mean 'truncate-left'?"]);
    refused(None, &[], &["--threads", "-1"], &["--threads", "a whole number from 0", "found -1"]);
    refused(None, &[], &["--otlp-endpoint", "https://collector"], &["--otlp-endpoint", "no TLS"]);
    refused(Some("threads = "), &[], &[], &["sidecar.toml", "not valid TOML", "line 1"]);
}

#[test]
fn a_bad_value_is_refused_even_where_it_is_overridden() {
    refused(Some("threads = \"two\""), &[], &["--threads", "2"], &["sidecar.toml"]);
}

#[test]
fn limits_have_ceilings_and_zero_is_refused_where_it_makes_no_sense() {
    let ceiling = reward_sidecar::limits::MAX_BATCH_TOKENS;
    assert!(load(None, &[], &["--max-batch-tokens", &ceiling.to_string()]).is_ok());
    let above = (ceiling + 1).to_string();
    let says = ["--max-batch-tokens", "max_batch_tokens = 1048577", "1048576", "MAX_BATCH_TOKENS"];
    refused(None, &[], &["--max-batch-tokens", &above], &says);
    for key in [
        "max_batch_tokens",
        "max_batch_rollouts",
        "queue_rollouts",
        "queue_tokens",
        "stream_in_flight",
        "grpc_connections",
        "intake_bytes",
        "shm_lanes",
        "tokenizer_threads",
        "tp",
    ] {
        refused(Some(&format!("{key} = 0")), &[], &[], &[key, "a whole number from 1", "found 0"]);
    }
    for bytes in ["65536", "268435456"] {
        assert!(load(None, &[], &["--shm-ring-bytes", bytes]).is_ok(), "{bytes}");
    }
    for bytes in ["0", "32768", "65537", "100000000"] {
        refused(None, &[], &["--shm-ring-bytes", bytes], &["--shm-ring-bytes", "a power of two from 65536", bytes]);
    }
    refused(None, &[], &["--shm-ring-bytes", "536870912"], &["MAX_LANE_RING_BYTES"]);
    for key in ["threads", "max_wait_ms", "max_bypass", "drain_ms", "watchdog_ms", "known_answer_ms", "shm_spin_us"] {
        assert!(load(Some(&format!("{key} = 0")), &[], &[]).is_ok(), "{key}");
        refused(Some(&format!("{key} = -1")), &[], &[], &[key, "found -1"]);
    }
}

#[test]
fn ranks_are_counted_from_one() {
    refused(None, &[], &["--tp", "0"], &["a whole number from 1"]);
    assert_eq!(load(None, &[], &["--tp", "8"]).unwrap().settings.tp, 8);
}

#[test]
fn a_printed_configuration_reads_back_to_the_same_settings() {
    let file = "model = \"we\\\"ird\\n\"\nlog = \"debug\"\n";
    let variables = [("REWARD_SIDECAR_UDS", "/tmp/a b.sock")];
    for loaded in [
        load(None, &[], &[]).unwrap(),
        load(Some(file), &variables, &["--threads=3", "--over-long=truncate-left", "--admin=off"]).unwrap(),
    ] {
        let printed = loaded.to_toml();
        let again = load(Some(&printed), &[], &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.settings, loaded.settings, "{printed}");
    }
    let printed = load(Some(file), &variables, &["--threads=3"]).unwrap().to_toml();
    assert!(printed.contains("\nthreads = 3 # flag --threads\n"), "{printed}");
    assert!(printed.contains("\nuds = \"/tmp/a b.sock\" # environment REWARD_SIDECAR_UDS\n"), "{printed}");
    assert!(printed.contains("\nlog = \"debug\" # file \""), "{printed}");
    assert!(printed.contains("\nmax_bypass = 8 # default\n"), "{printed}");
}

#[test]
fn a_command_has_the_flags_it_uses() {
    let command = |flags: Command| flags.try_get_matches_from(["--uds", "a.sock"]);
    assert!(command(Flags::<SERVE>::augment_args(Command::new("serve").no_binary_name(true))).is_ok());
    assert!(command(Flags::<SCORE>::augment_args(Command::new("score").no_binary_name(true))).is_err());
}

#[test]
fn a_missing_file_is_named() {
    let error = config::load(&parse::<SERVE>(&["--config=/no/such/file.toml".into()]), []).unwrap_err().to_string();
    assert!(error.contains("/no/such/file.toml"), "{error}");
}

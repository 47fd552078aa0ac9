//! Tests of the grammar: what stock clients and other proposers send, refusals, round trips, hostile text.

use super::*;
use crate::SqlState;
use proptest::prelude::*;

fn start(text: &str) -> StartReplication {
    match parse(text).unwrap() {
        Command::StartReplication(start) => start,
        other => panic!("{other:?}"),
    }
}

fn options<const N: usize>(pairs: [(&str, &str); N]) -> Options {
    pairs.into_iter().collect()
}

#[test]
fn what_stock_clients_send() {
    assert_eq!(parse("IDENTIFY_SYSTEM"), Ok(Command::IdentifySystem));
    assert_eq!(parse("SHOW data_directory_mode"), Ok(Command::Show { name: "data_directory_mode".into() }));
    assert_eq!(parse("SHOW a.b ;"), Ok(Command::Show { name: "a.b".into() }));
    assert_eq!(parse("TIMELINE_HISTORY 3"), Ok(Command::TimelineHistory { tli: Tli(3) }));
    let standby = start("START_REPLICATION SLOT \"s1\" 1/3000000 TIMELINE 2");
    assert_eq!(standby.slot.as_deref(), Some("s1"));
    assert_eq!((standby.start, standby.tli, standby.term), (Lsn(0x1_0300_0000), Some(Tli(2)), None));
    assert_eq!(start("START_REPLICATION PHYSICAL 0/5000000").tli, None);
    for spelling in ["READ_REPLICATION_SLOT rw", "READ_REPLICATION_SLOT \"rw\"", "READ_REPLICATION_SLOT RW;"] {
        assert_eq!(parse(spelling), Ok(Command::ReadReplicationSlot { slot: "rw".into() }));
    }
}

#[test]
fn slots_in_both_option_spellings() {
    let create = |text: &str| match parse(text).unwrap() {
        Command::CreateReplicationSlot { slot, temporary, reserve_wal } => (slot, temporary, reserve_wal),
        other => panic!("{other:?}"),
    };
    for (text, temporary, reserve) in [
        ("CREATE_REPLICATION_SLOT \"a\" PHYSICAL", false, false),
        ("CREATE_REPLICATION_SLOT \"a\" TEMPORARY PHYSICAL RESERVE_WAL", true, true),
        ("CREATE_REPLICATION_SLOT a TEMPORARY PHYSICAL ( RESERVE_WAL)", true, true),
        ("CREATE_REPLICATION_SLOT a PHYSICAL (RESERVE_WAL false);", false, false),
        ("CREATE_REPLICATION_SLOT a PHYSICAL (RESERVE_WAL 'on')", false, true),
    ] {
        assert_eq!(create(text), ("a".to_owned(), temporary, reserve), "{text}");
    }
    let dropped = parse("DROP_REPLICATION_SLOT \"a\" WAIT");
    assert_eq!(dropped, Ok(Command::DropReplicationSlot { slot: "a".into(), wait: true }));
    for bad in ["", "A B", "\"A\"", &format!("\"{}\"", "a".repeat(64)), "\"a-b\""] {
        assert!(parse(&format!("DROP_REPLICATION_SLOT {bad}")).is_err(), "{bad}");
    }
    let logical = parse("CREATE_REPLICATION_SLOT a LOGICAL pgoutput").unwrap_err();
    assert_eq!(logical.sqlstate(), SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn guarded_reads_in_every_spelling() {
    for text in [
        "START_REPLICATION PHYSICAL 0/1600000 (term='3')",
        "START_REPLICATION PHYSICAL 0/1600000 (term = '3');",
        "START_REPLICATION 0/1600000 (term '3')",
        "START_REPLICATION 0/1600000(term=3)",
    ] {
        assert_eq!(start(text).term, Some(Term(3)), "{text}");
    }
    let both = start("START_REPLICATION SLOT x PHYSICAL 0/1600000 TIMELINE 4 (term='3', other 'y')");
    assert_eq!((both.tli, both.term), (Some(Tli(4)), Some(Term(3))));
    assert_eq!(both.options, options([("other", "y")]));
    assert!(parse("START_REPLICATION 0/1 (term='x')").is_err());
}

#[test]
fn wal_push_as_other_proposers_write_it() {
    let push = |text: &str| match parse(text).unwrap() {
        Command::StartWalPush(options) => options,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        push("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')"),
        options([("proto_version", "3"), ("allow_timeline_creation", "true")])
    );
    assert_eq!(push("START_WAL_PUSH"), Options::default());
    assert_eq!(push("START_WAL_PUSH ()"), Options::default());
    let path = "1:0/0:0;2:0/3063B90:8A0C44F1";
    assert_eq!(push(&format!("START_WAL_PUSH (tli_path '{path}')")).get("tli_path"), Some(path));
    assert_eq!(push(&format!("START_WAL_PUSH (tli_path {path});")).get("tli_path"), Some(path));
    let printed = Command::StartWalPush(options([("proto_version", "3"), ("allow_timeline_creation", "false")]));
    assert_eq!(printed.to_string(), "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')");
}

#[test]
fn our_own_commands() {
    assert_eq!(parse("TIMELINE_STATUS"), Ok(Command::TimelineStatus));
    assert_eq!(parse("LOG_STATUS"), Ok(Command::LogStatus { since: None }));
    assert_eq!(parse("LOG_STATUS (since '17', future 'x')"), Ok(Command::LogStatus { since: Some(17) }));
    assert!(parse("LOG_STATUS (since '-1')").is_err());
    assert!(parse("INIT_CLUSTER").is_err());
    let init = options([("name", "it's"), ("members", "1:ab@sk1:5454;2:cd@sk2:5454")]);
    let text = Command::InitCluster(init.clone()).to_string();
    assert_eq!(text, "INIT_CLUSTER (name 'it''s', members '1:ab@sk1:5454;2:cd@sk2:5454')");
    assert_eq!(parse(&text), Ok(Command::InitCluster(init)));
}

#[test]
fn what_is_not_ours() {
    assert_eq!(parse("set datestyle to iso"), Ok(Command::Set));
    assert_eq!(parse(" SET x = 1"), Ok(Command::Set));
    for (text, word) in [
        ("", ""),
        (";", ""),
        ("identify_system", "identify_system"),
        ("SELECT 1", "SELECT"),
        ("IDENTIFY_SYSTEMS", "IDENTIFY_SYSTEMS"),
        ("BASE_BACKUP (x 'unclosed", "BASE_BACKUP"),
    ] {
        assert_eq!(parse(text), Ok(Command::Unknown { word: word.into() }), "{text}");
    }
}

#[test]
fn refusals_say_what_was_expected() {
    for (text, message) in [
        ("IDENTIFY_SYSTEM x", "syntax error at or near \"x\": expected the end of the command"),
        ("TIMELINE_HISTORY", "syntax error at or near \"\": expected a TLI (a decimal number)"),
        ("TIMELINE_HISTORY 0", "invalid timeline 0"),
        ("START_REPLICATION 0/1 TIMELINE 0", "invalid timeline 0"),
        ("START_REPLICATION 'x'", "syntax error at or near \"x\": expected a position like 16/B374D848"),
        ("START_REPLICATION SLOT a LOGICAL 0/1", "logical replication is not served here, only physical"),
        ("START_WAL_PUSH (a 'b", "syntax error: the text after ' has no closing quote"),
        ("START_WAL_PUSH (a 'b', a 'c')", "option \"a\" is given more than once"),
        ("START_WAL_PUSH (a 'b' c 'd')", "syntax error at or near \"c\": expected a comma or a closing parenthesis"),
        ("START_WAL_PUSH (a =)", "syntax error at or near \")\": expected a value"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
    }
    let many: Vec<String> = (0..200).map(|n| format!("k{n} 'v'")).collect();
    let error = parse(&format!("START_WAL_PUSH ({})", many.join(", "))).unwrap_err();
    assert_eq!(error, ParseError::TooManyOptions);
}

fn any_options() -> impl Strategy<Value = Options> {
    prop::collection::vec(("[a-z_ \"A-Z]{0,8}", "[^\0]{0,12}"), 0..4)
        .prop_map(|pairs| pairs.into_iter().filter(|(key, _)| key != "term").collect())
}

fn any_command() -> impl Strategy<Value = Command> {
    let slot = "[a-z0-9_]{1,63}";
    let tli = (1u32..).prop_map(Tli);
    prop_oneof![
        Just(Command::IdentifySystem),
        Just(Command::TimelineStatus),
        "[ -~]{1,20}".prop_map(|name| Command::Show { name }),
        tli.clone().prop_map(|tli| Command::TimelineHistory { tli }),
        slot.prop_map(|slot| Command::ReadReplicationSlot { slot }),
        (slot, any::<bool>(), any::<bool>())
            .prop_map(|(slot, temporary, reserve_wal)| Command::CreateReplicationSlot { slot, temporary, reserve_wal }),
        (slot, any::<bool>()).prop_map(|(slot, wait)| Command::DropReplicationSlot { slot, wait }),
        any_options().prop_map(Command::StartWalPush),
        any::<Option<u64>>().prop_map(|since| Command::LogStatus { since }),
        any_options().prop_map(|options| Command::InitCluster(options.with("name", "x"))),
        any_options().prop_map(|options| Command::Members(options.with("drop", "7"))),
        any_options().prop_map(|options| Command::Fence(options.with("lift", "7"))),
        (prop::option::of(slot), any::<u64>(), prop::option::of(tli), any::<Option<u64>>(), any_options()).prop_map(
            |(slot, start, tli, term, options)| {
                let (start, term) = (Lsn(start), term.map(Term));
                Command::StartReplication(StartReplication { slot, start, tli, term, options })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(command in any_command()) {
        prop_assert_eq!(parse(&command.to_string()), Ok(command.clone()));
        prop_assert_eq!(parse(&format!("{command} ;")), Ok(command));
    }

    #[test]
    fn random_text_never_panics(word in prop::sample::select(vec![
        "START_REPLICATION", "START_WAL_PUSH", "SHOW", "CREATE_REPLICATION_SLOT a", "LOG_STATUS", "",
    ]), rest in "[ -~é]{0,40}") {
        let _ = parse(&format!("{word} {rest}"));
        let _ = parse(&rest);
    }
}

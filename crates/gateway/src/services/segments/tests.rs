use proptest::prelude::*;

use super::*;

fn texts(segments: &Segments) -> Vec<&str> {
    segments.list.iter().map(|segment| segment.text.as_str()).collect()
}

/// The text again, with a function of each segment in its place.
fn rejoined(segments: &Segments, answer: impl Fn(&str) -> String, blanks: Blanks) -> String {
    let parts = segments.list.iter().map(|segment| answer(&segment.text) + segment.joint(blanks));
    segments.before.clone() + &parts.collect::<String>()
}

fn same(segments: &Segments) -> String {
    rejoined(segments, str::to_owned, Blanks::Kept)
}

/// What is cut from what, with each segment in brackets of its own.
fn marked(text: &str, language: &str) -> String {
    let segments = split(text, Some(language), SegmentKind::Sentence, 480);
    rejoined(&segments, |segment| format!("⟦{segment}⟧"), Blanks::Kept)
}

fn holds(language: &str, expected: &str) {
    let text = expected.replace(['⟦', '⟧'], "");
    assert_eq!(marked(&text, language), expected);
}

#[test]
fn sentences_end_where_they_end() {
    let mut count = 0;
    for line in include_str!("sentences.txt").lines() {
        let Some((language, marked)) = line.split_once('\t') else { continue };
        let text = marked.replace('¦', "");
        let cut: Vec<&str> = sentences::of(&text, &Abbreviations::of(Some(language)))
            .into_iter()
            .map(|range| &text[range])
            .collect();
        let expected: Vec<&str> = marked.split('¦').map(str::trim).collect();
        assert_eq!(cut, expected, "{language}");
        count += 1;
    }
    assert!(count > 100);
}

#[test]
fn marks_at_the_ends_are_kept_around_a_segment() {
    for expected in [
        "# ⟦Getting started⟧",
        "### ⟦Next steps⟧ ###",
        "⟦Thanks⟧ 😊",
        "⟦Thanks⟧😊",
        "🎉 ⟦Well done!⟧ 🎉🎉",
        "❤️ ⟦Love it.⟧ 👍🏽 ⟦So do we!⟧ 👨‍👩‍👧",
        "🇧🇷 ⟦Brazil⟧",
        "1️⃣ ⟦First⟧",
        "⟦请先看完这篇文章再继续往下读⟧1️⃣",
        "⟦Step1️⃣ Open the door.⟧",
        "a. ⟦First⟧\nb. ⟦Second⟧",
        "① ⟦One⟧",
        "ℹ️ ⟦Note⟧",
        "✓ ⟦Done⟧",
        "→ ⟦Next⟧ ←",
        "- ⟦Milk⟧",
        "* ⟦Milk⟧\n  + ⟦Eggs.⟧",
        "•⟦Milk⟧",
        "> > ⟦Quoted⟧",
        ">⟦Quoted.⟧",
        "— ⟦Who is there?⟧",
        "-⟦Who is there?⟧ ⟦-Me.⟧",
        "♪ ⟦La la la⟧ ♪",
        "// ⟦Returns the sum.⟧",
        "⟦It is true.⟧[1] ⟦It is old.⟧[2][30]",
        "⟦From: Ann Lee⟧ <ann@example.com>",
        "⟦Website:⟧ https://example.com/?a=b",
        "⟦The dog runs.⟧😀 ⟦The cat sleeps.⟧😴",
        "- [ ] ⟦Buy milk.⟧ ⟦Call Ann.⟧",
        "1. [x] ⟦Done⟧",
        "1. ⟦Item⟧",
        "10) ⟦Item⟧",
        "(2) ⟦Item⟧",
        "1.2. ⟦Part⟧",
        "a) ⟦Item⟧",
        "b. ⟦Item⟧",
        "iv. ⟦Item⟧",
        "5、⟦Item⟧",
        "**⟦Warning⟧**",
        "*⟦Note well.⟧ ⟦It rains.⟧*",
        "__⟦Very important⟧__",
        "[⟦The manual⟧](https://example.com/a?b=c)",
        "![⟦A cat⟧](cat.png)",
        "[![⟦Build⟧](a.svg)](https://example.com)",
        "<i>⟦Hello there.⟧</i>",
        "<font color=\"#fff\">⟦White⟧</font>",
    ] {
        holds("en", expected);
    }
}

#[test]
fn what_belongs_to_a_sentence_goes_with_it() {
    for text in [
        "$5 is enough.",
        "@ann likes this.",
        "#monday is over.",
        "3 cats sleep.",
        "2.5 cats sleep.",
        "\"Yes,\" she said.",
        "(Or so they say.)",
        "¿Dónde está?",
        "¡No!",
        "& Co. is a firm.",
        "% of all users",
        "__init__",
        "5 km",
        "C++ and C#",
        "[Read](https://example.com) it now.",
        "**Note:** read this.",
        "*One* and *two*",
        "<b>One</b> and <b>two</b>",
        "I ❤ New York",
        "A. Smith",
        "See https://example.com/a!b for more",
        "Write to ann@example.com please",
        "a - b",
        "foo.bar() ends",
        "U.S.A.",
        "Hello.World",
    ] {
        holds("en", &format!("⟦{text}⟧"));
    }
    // Fifth of May.
    holds("de", "⟦5. Mai⟧");
    for (language, expected) in [
        ("de", "⟦z. B. Äpfel⟧"),
        ("de", "- ⟦d. h. wir gehen⟧"),
        ("de", "⟦u. a. in Berlin⟧"),
        ("pt", "⟦p. ex. isto⟧"),
        ("en", "⟦p. 5 of the book⟧"),
        ("en", "⟦c. 1900 it burnt⟧"),
    ] {
        holds(language, expected);
    }
}

#[test]
fn what_has_no_words_is_kept_whole() {
    for text in [
        "==========",
        "-----",
        "* * *",
        "😊",
        "👨‍👩‍👧‍👦🇧🇷",
        "1️⃣ 2️⃣",
        "🅰️ Ⓜ️",
        "42",
        "3.14 + 2 = 5.14!",
        "12:30 - 14:00",
        "(1) 50 %",
        "$ 5,000.00",
        "R$ 12,50 / US$3",
        "?!",
        "...",
        "00:00:04,000 --> 00:00:06,000",
        "00:04.000 --> 00:06.000 align:start position:10%",
        "https://example.com/watch?v=1&t=5",
        "<https://example.com>",
        "www.example.com, www.example.org",
        "mailto:ann@example.com?subject=a.b",
        "example.com/a?b=c, example.org",
        "- report.v2.pdf",
        "(ann.b+c@mail.example.co.uk)",
        "📧 ann@example.com",
        "- https://example.com",
        "![](cat.png)",
        "`npm install`",
        "|---|:-:|",
        "```python\nprint(\"Hello. There!\")\n```",
    ] {
        let segments = split(text, Some("en"), SegmentKind::Sentence, 480);
        assert_eq!((segments.before.as_str(), segments.list.len()), (text, 0));
    }
}

#[test]
fn lines_and_columns_are_kept() {
    for expected in [
        "⟦Item⟧\t⟦Qty⟧\t⟦Price⟧\r\n⟦Apple⟧\t3\t$1.50\r\n\t\t\r\n",
        "| ⟦Name⟧ | ⟦Age⟧ |\n|---|---:|\n| ⟦Ann Lee⟧ | 3 |\n",
        "⟦Home⟧ | ⟦About us⟧ | ⟦Contact⟧",
        "⟦NAME⟧    ⟦AGE⟧\n⟦Ann⟧     3",
        "1\n00:00:01,000 --> 00:00:02,500\n⟦Hello.⟧ ⟦Who are you?⟧\n\n2\n00:00:03,000 --> 00:00:04,000\n-⟦Me.⟧\n",
        "⟦Run this:⟧\n\n```sh\nmake. All!\n```\n\n⟦Then wait.⟧",
        "  ⟦Indented.⟧\n\t⟦Tabbed.⟧\n\n\n⟦End.⟧  \n",
        "⟦One.⟧\u{2028}⟦Two.⟧\r⟦Three.⟧",
        "⟦One.⟧  ⟦Two.⟧",
        "⟦今天下雨。⟧⟦我们在家！⟧⟦好吗？⟧",
        "⟦一、概述⟧\n1、⟦苹果。⟧",
    ] {
        holds("en", expected);
    }
}

#[test]
fn blanks_between_sentences_follow_the_language() {
    let joined = |text: &str, source: Option<&str>, target: &str| {
        let segments = split(text, source, SegmentKind::Sentence, 480);
        rejoined(&segments, str::to_owned, Blanks::between(source, target))
    };
    let english = "One.  Two!\n# Three\tFour. Five 😊 Six.";
    assert_eq!(joined(english, Some("en"), "pt"), english);
    assert_eq!(joined(english, Some("en"), "en"), english);
    assert_eq!(joined(english, Some("en"), "zh"), "One.Two!\n# Three\tFour.Five 😊 Six.");
    assert_eq!(joined("One. Two.\r\nThree. ", None, "ja"), "One.Two.\r\nThree. ");
    let chinese = "今天下雨。我们在家！　好吗？\r\n“明天见。”她说。";
    assert_eq!(joined(chinese, Some("zh"), "zh-Hant"), chinese);
    assert_eq!(joined(chinese, Some("zh"), "en"), "今天下雨。 我们在家！ 好吗？\r\n“明天见。”她说。");
    assert_eq!(joined(chinese, None, "en"), joined(chinese, Some("zh"), "en"));
    assert_eq!(joined("One. Two.", Some("en"), "th"), "One. Two.");
}

#[test]
fn a_paragraph_stays_whole_while_it_fits() {
    let cut =
        |max_bytes| split("One here. Two there! And three?\nFour.", None, SegmentKind::Paragraph, max_bytes);
    assert_eq!(texts(&cut(100)), ["One here. Two there! And three?", "Four."]);
    assert_eq!(texts(&cut(22)), ["One here. Two there!", "And three?", "Four."]);
}

#[test]
fn a_word_that_is_cut_is_not_torn() {
    let joint = |text: &str| {
        split(text, None, SegmentKind::Sentence, 32).list[0].joint(Blanks::between(None, "pt")).to_owned()
    };
    assert_eq!(joint(&"x".repeat(40)), "");
    assert_eq!(joint(&"天".repeat(40)), " ");
}

#[test]
fn a_long_sentence_is_cut_at_a_clause_and_not_in_a_number() {
    let words = "a word and another, ".repeat(40);
    let cut = split(&words, None, SegmentKind::Sentence, 50);
    assert!(cut.list.iter().all(|segment| segment.text.ends_with(',')), "{cut:?}");
    let number = "the price of this is 12,000,000 for each";
    assert_eq!(texts(&split(number, None, SegmentKind::Sentence, 32))[0], "the price of this is 12,000,000");
}

#[test]
fn blanks_alone_are_no_work() {
    for text in ["", " \n\t ", "\n", "\u{3000}"] {
        let segments = split(text, None, SegmentKind::Sentence, 100);
        assert_eq!((segments.before.as_str(), segments.list.len()), (text, 0));
    }
}

/// Rules that look back or ahead must not do so for each character of a long text.
#[test]
fn long_texts_of_one_kind_are_cut() {
    let size = 20_000;
    let nested = size / "[](a)".len();
    let mut texts =
        vec!["[".repeat(nested) + "x" + &"](a)".repeat(nested), "a.".to_owned() + &"[1]".repeat(size / 3)];
    for part in [
        "A. ",
        ". ",
        "! - ",
        "1. ",
        "a.",
        "(",
        "([",
        "(])",
        "\"",
        "\" a",
        "'A.' ",
        "“",
        "😀 ",
        "- ",
        "> ",
        "| ",
        "a | ",
        "```\n",
        "```a\n",
        "~~~~~\n",
        "[a](b) ",
        "[",
        "![",
        "<i>",
        "**a ",
        "`",
        "https://a.b/ ",
        "a@b.",
        "a:",
        "。",
        "今",
        "“好。",
        "a\t",
        "  ",
        "a  ",
        "[1]",
        "A.[1]",
        "x",
    ] {
        texts.push(part.repeat(size / part.len()) + "x");
    }
    for text in texts {
        for kind in [SegmentKind::Sentence, SegmentKind::Paragraph] {
            assert_eq!(same(&split(&text, None, kind, 480)), text);
        }
    }
}

#[test]
fn eight_layers_of_mark_up_are_kept_and_a_hundred_are_not() {
    holds("en", &("[".repeat(8) + "⟦The manual⟧" + &"](a)".repeat(8)));
    let hundred = "[".repeat(100) + "The manual" + &"](a)".repeat(100);
    let segments = split(&hundred, Some("en"), SegmentKind::Sentence, 480);
    assert_eq!(same(&segments), hundred);
    assert!(segments.list.iter().all(|segment| segment.text.contains(['[', ']'])), "{segments:?}");
}

/// Texts of whatever the rules look at.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z]{1,9}",
        4 => prop_oneof![Just(" "), Just("  "), Just("\t"), Just("\n"), Just("\r\n"), Just("\u{2028}"), Just("　")]
            .prop_map(str::to_owned),
        3 => "[.!?…,:;()\\[\\]\"'`*_#|>~<{}=+/-]{1,3}",
        2 => "[。！？，「」“”今天下雨ですнеть]{1,4}",
        2 => prop_oneof![
            Just("😊"), Just("👨‍👩‍👧‍👦"), Just("1️⃣"), Just("Mr."), Just("U.S."), Just("5. "), Just("a) "), Just("- "), Just("```"),
            Just("\n```\n"), Just("https://a.b/c?d"), Just("a@b.cd"), Just("[x](y)"), Just("**"), Just("<i>"), Just("</i>"),
            Just("00:00:04,000 --> 00:00:06,000"), Just("\u{0}"), Just("\u{301}")
        ].prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn nothing_is_lost_and_every_segment_fits(
        text in any_text(),
        repeated in 1usize..8,
        max_bytes in 32usize..200,
        language in proptest::option::of(prop_oneof![Just("en"), Just("de"), Just("zh")]),
    ) {
        let text = text.repeat(repeated);
        for kind in [SegmentKind::Sentence, SegmentKind::Paragraph] {
            let segments = split(&text, language, kind, max_bytes);
            prop_assert_eq!(&same(&segments), &text);
            for segment in &segments.list {
                prop_assert!(segment.text.len() <= max_bytes);
                prop_assert_eq!(segment.text.trim(), &segment.text);
                prop_assert!(segment.text.contains(char::is_alphabetic));
            }
        }
    }
}

#[test]
fn a_title_is_a_sentence_to_a_model_of_sentences() {
    let sentences = |text: &str| -> Vec<String> {
        let segments = split(text, Some("en"), SegmentKind::Sentence, 500);
        segments.list.iter().map(|segment| segment.sentence().into_owned()).collect()
    };
    assert_eq!(sentences("# Getting started"), ["Getting started."]);
    assert_eq!(sentences("## 开始"), ["开始。"]);
    assert_eq!(sentences("Thanks 😊\nSee you! 😊"), ["Thanks.", "See you!"]);
    for (text, sentence) in [
        ("Getting started", "Getting started"),
        ("- Milk", "Milk"),
        ("# Ready?", "Ready?"),
        ("C# is a language", "C# is a language"),
    ] {
        assert_eq!(sentences(text), [sentence]);
    }
    let mut text = "Começando.".to_owned();
    assert_eq!((take_stop(&mut text), &*text), (Some('.'), "Começando"));
    assert_eq!((take_stop(&mut text), &*text), (None, "Começando"));
    for stop in ['。', '।', '۔', '။', '។', '։', '።'] {
        assert_eq!(take_stop(&mut format!("x{stop}")), Some(stop));
    }
    for other in ['!', '?', '！', '？', '؟', '…', '፧'] {
        assert_eq!(take_stop(&mut format!("x{other}")), None);
    }
}

//! Names of languages: what a request may call one, and what a prompt or a page calls it. The backend and the gateway
//! read the same table.

use std::{borrow::Cow, fmt};

use serde::Serialize;

/// A list that cannot be read, or a language that is not in one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LanguageError(String);

/// Characters of a name that an error repeats.
const SHOWN: usize = 40;

/// A language as templates see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Language {
    /// Its code, such as `pt`.
    pub code: Cow<'static, str>,
    /// In English.
    pub name: Cow<'static, str>,
    /// In Chinese.
    pub chinese: Cow<'static, str>,
    /// In itself; empty when it is not known.
    pub native: Cow<'static, str>,
    /// What it is written in, by Unicode's names of scripts; empty when that is not known. No prompt needs it.
    #[serde(skip)]
    pub scripts: &'static [&'static str],
}

/// The languages of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Languages {
    list: Vec<Language>,
}

/// Code, English name, Chinese name, own name, scripts.
type Known = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

const KNOWN: [Known; 38] = [
    ("zh", "Chinese", "中文", "中文", &["Han"]),
    ("en", "English", "英语", "English", &["Latin"]),
    ("fr", "French", "法语", "Français", &["Latin"]),
    ("pt", "Portuguese", "葡萄牙语", "Português", &["Latin"]),
    ("es", "Spanish", "西班牙语", "Español", &["Latin"]),
    ("ja", "Japanese", "日语", "日本語", &["Han", "Hiragana", "Katakana"]),
    ("tr", "Turkish", "土耳其语", "Türkçe", &["Latin"]),
    ("ru", "Russian", "俄语", "Русский", &["Cyrillic"]),
    ("ar", "Arabic", "阿拉伯语", "العربية", &["Arabic"]),
    ("ko", "Korean", "韩语", "한국어", &["Hangul", "Han"]),
    ("th", "Thai", "泰语", "ไทย", &["Thai"]),
    ("it", "Italian", "意大利语", "Italiano", &["Latin"]),
    ("de", "German", "德语", "Deutsch", &["Latin"]),
    ("vi", "Vietnamese", "越南语", "Tiếng Việt", &["Latin"]),
    ("ms", "Malay", "马来语", "Bahasa Melayu", &["Latin"]),
    ("id", "Indonesian", "印尼语", "Bahasa Indonesia", &["Latin"]),
    ("tl", "Filipino", "菲律宾语", "Filipino", &["Latin"]),
    ("hi", "Hindi", "印地语", "हिन्दी", &["Devanagari"]),
    ("zh-Hant", "Traditional Chinese", "繁体中文", "繁體中文", &["Han"]),
    ("pl", "Polish", "波兰语", "Polski", &["Latin"]),
    ("cs", "Czech", "捷克语", "Čeština", &["Latin"]),
    ("nl", "Dutch", "荷兰语", "Nederlands", &["Latin"]),
    ("km", "Khmer", "高棉语", "ខ្មែរ", &["Khmer"]),
    ("my", "Burmese", "缅甸语", "မြန်မာ", &["Myanmar"]),
    ("fa", "Persian", "波斯语", "فارسی", &["Arabic"]),
    ("gu", "Gujarati", "古吉拉特语", "ગુજરાતી", &["Gujarati"]),
    ("ur", "Urdu", "乌尔都语", "اردو", &["Arabic"]),
    ("te", "Telugu", "泰卢固语", "తెలుగు", &["Telugu"]),
    ("mr", "Marathi", "马拉地语", "मराठी", &["Devanagari"]),
    ("he", "Hebrew", "希伯来语", "עברית", &["Hebrew"]),
    ("bn", "Bengali", "孟加拉语", "বাংলা", &["Bengali"]),
    ("ta", "Tamil", "泰米尔语", "தமிழ்", &["Tamil"]),
    ("uk", "Ukrainian", "乌克兰语", "Українська", &["Cyrillic"]),
    ("bo", "Tibetan", "藏语", "བོད་སྐད་", &["Tibetan"]),
    ("kk", "Kazakh", "哈萨克语", "Қазақша", &["Cyrillic", "Latin", "Arabic"]),
    ("mn", "Mongolian", "蒙古语", "Монгол", &["Cyrillic", "Mongolian"]),
    ("ug", "Uyghur", "维吾尔语", "ئۇيغۇرچە", &["Arabic"]),
    ("yue", "Cantonese", "粤语", "粵語", &["Han"]),
];

/// Other codes in use, in lower case.
const ALIASES: [(&str, &str); 11] = [
    ("zh-cn", "zh"),
    ("zh-sg", "zh"),
    ("zh-hans", "zh"),
    ("zh-tw", "zh-hant"),
    ("zh-hk", "zh-hant"),
    ("zh-mo", "zh-hant"),
    ("zh-yue", "yue"),
    ("fil", "tl"),
    ("iw", "he"),
    ("in", "id"),
    ("jp", "ja"),
];

impl Default for Languages {
    /// Every language that is known without being explained.
    fn default() -> Self {
        Self { list: KNOWN.iter().map(|&known| Language::known(known)).collect() }
    }
}

impl Language {
    fn known((code, name, chinese, native, scripts): Known) -> Self {
        Self { code: code.into(), name: name.into(), chinese: chinese.into(), native: native.into(), scripts }
    }

    fn is_called(&self, name: &str) -> bool {
        [&self.code, &self.name, &self.chinese, &self.native].iter().any(|own| own.to_lowercase() == name)
    }
}

impl Languages {
    /// Reads a list such as `en, pt, tlh=Klingon=克林贡语`: codes of known languages, and others with their English
    /// and Chinese names. The Chinese name may be left out where no prompt needs it.
    pub fn parse(list: &str) -> Result<Self, LanguageError> {
        let mut languages = Self { list: Vec::new() };
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let language = language(item)?;
            if languages.list.iter().any(|other| other.code.eq_ignore_ascii_case(&language.code)) {
                return Err(LanguageError(format!("`{}` is there twice", language.code)));
            }
            languages.list.push(language);
        }
        if languages.list.is_empty() {
            return Err(LanguageError(
                "got no language, expected codes separated by commas, such as `en, pt`".to_owned(),
            ));
        }
        Ok(languages)
    }

    /// Every one of them, as they were listed.
    pub fn iter(&self) -> impl Iterator<Item = &Language> {
        self.list.iter()
    }

    /// Those that `keep` says yes to, as they were listed.
    pub fn filtered(&self, keep: impl FnMut(&&Language) -> bool) -> Self {
        Self { list: self.list.iter().filter(keep).cloned().collect() }
    }

    /// The language with this code or name, in whichever case. `pt_BR` and `pt-BR` are `pt`.
    pub fn find(&self, asked: &str) -> Result<&Language, LanguageError> {
        let name = asked.trim().to_lowercase();
        let code = name.replace('_', "-");
        let alias = ALIASES.iter().find(|(alias, _)| *alias == code).map(|(_, code)| *code);
        [Some(name.as_str()), Some(code.as_str()), alias, without_region(&code)]
            .into_iter()
            .flatten()
            .find_map(|name| self.list.iter().find(|language| language.is_called(name)))
            .ok_or_else(|| {
                let end = asked.char_indices().nth(SHOWN);
                let shown = end.map_or_else(|| asked.to_owned(), |(end, _)| format!("{}…", &asked[..end]));
                LanguageError(format!("got {shown:?}, expected a language of this model: {self}"))
            })
    }
}

impl fmt::Display for Languages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, language) in self.list.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", language.code)?;
        }
        Ok(())
    }
}

fn language(item: &str) -> Result<Language, LanguageError> {
    let mut names = item.split('=').map(str::trim);
    let code = names.next().unwrap_or_default();
    let known = KNOWN.iter().find(|known| known.0.eq_ignore_ascii_case(code)).copied().map(Language::known);
    let (english, chinese) = (names.next(), names.next());
    let wrong = |reason: &str| {
        Err(LanguageError(format!(
            "`{item}`: {reason}; write a code of {}, or code=English name=Chinese name",
            Languages::default()
        )))
    };
    if names.next().is_some() || code.is_empty() || [english, chinese].contains(&Some("")) {
        return wrong("a name is empty, or there are too many");
    }
    match (known, english) {
        (Some(known), None) => Ok(known),
        (None, None) => wrong("a language that is not known needs its name"),
        (known, Some(english)) => {
            let native = known.as_ref().map_or(Cow::Borrowed(""), |known| known.native.clone());
            let scripts = known.as_ref().map_or(&[][..], |known| known.scripts);
            // No prompt should call a language by an empty name: what it has in English serves.
            let chinese = chinese.map(str::to_owned).map(Cow::Owned);
            let chinese = chinese.or(known.map(|known| known.chinese)).unwrap_or(english.to_owned().into());
            Ok(Language {
                code: code.to_owned().into(),
                name: english.to_owned().into(),
                chinese,
                native,
                scripts,
            })
        }
    }
}

/// `pt` of `pt-br`. Chinese is written differently in its regions, so `zh` is not that of `zh-…`.
fn without_region(code: &str) -> Option<&str> {
    let (language, region) = code.split_once('-')?;
    let is_region = match region.len() {
        2 => region.bytes().all(|byte| byte.is_ascii_lowercase()),
        3 => region.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    (is_region && language != "zh").then_some(language)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: fmt::Debug>(result: Result<T, LanguageError>, parts: &[&str]) {
        let message = result.unwrap_err().to_string();
        assert!(message.len() < 1000, "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn a_language_is_found_by_any_of_its_names() {
        let languages = Languages::default();
        for (asked, code) in [
            ("en", "en"),
            ("EN", "en"),
            ("english", "en"),
            ("英语", "en"),
            (" en ", "en"),
            ("en-US", "en"),
            ("pt_BR", "pt"),
            ("es-419", "es"),
            ("Português", "pt"),
            ("PORTUGUÊS", "pt"),
            ("日本語", "ja"),
            ("zh", "zh"),
            ("zh-CN", "zh"),
            ("zh_Hans", "zh"),
            ("中文", "zh"),
            ("Chinese", "zh"),
            ("zh-TW", "zh-Hant"),
            ("zh_hant", "zh-Hant"),
            ("zh-HK", "zh-Hant"),
            ("繁体中文", "zh-Hant"),
            ("traditional chinese", "zh-Hant"),
            ("yue", "yue"),
            ("fil", "tl"),
            ("ئۇيغۇرچە", "ug"),
        ] {
            assert_eq!(languages.find(asked).unwrap().code, code, "{asked}");
        }
        for unknown in
            ["", "xx", "e", "en-", "en-Latn", "zh-XX", "-", "english, german", &"x".repeat(1 << 20)]
        {
            refused(languages.find(unknown), &["zh, en, fr", "yue"]);
        }
    }

    #[test]
    fn names_are_unambiguous() {
        let languages = Languages::default();
        for language in KNOWN_CODES.iter().map(|code| languages.find(code).unwrap()) {
            for name in [&language.code, &language.name, &language.chinese, &language.native] {
                assert_eq!(languages.find(name).unwrap(), language, "{name}");
            }
        }
        assert_eq!(languages.to_string(), KNOWN_CODES.join(", "));
    }

    const KNOWN_CODES: [&str; 38] = [
        "zh", "en", "fr", "pt", "es", "ja", "tr", "ru", "ar", "ko", "th", "it", "de", "vi", "ms", "id", "tl",
        "hi", "zh-Hant", "pl", "cs", "nl", "km", "my", "fa", "gu", "ur", "te", "mr", "he", "bn", "ta", "uk",
        "bo", "kk", "mn", "ug", "yue",
    ];

    #[test]
    fn a_model_limits_and_extends_the_list() {
        let languages =
            Languages::parse("EN, pt,\n tlh=Klingon=克林贡语, qu=Quechua, de=Swiss German").unwrap();
        assert_eq!(languages.to_string(), "en, pt, tlh, qu, de");
        assert_eq!(languages.find("klingon").unwrap().chinese, "克林贡语");
        assert_eq!(languages.find("qu").unwrap().chinese, "Quechua");
        assert_eq!(languages.find("Deutsch").unwrap().name, "Swiss German");
        assert_eq!(languages.find("Deutsch").unwrap().scripts, ["Latin"]);
        assert!(languages.find("qu").unwrap().scripts.is_empty(), "nobody said how it is written");
        refused(languages.find("fr"), &["en, pt, tlh, qu, de"]);
        refused(Languages::parse("en").unwrap().find("zh-CN"), &["zh-CN"]);
        for (list, part) in [
            ("", "no language"),
            (" , ", "no language"),
            ("xx", "`xx`"),
            ("en, EN", "twice"),
            ("xx=", "empty"),
            ("=English", "empty"),
            ("xx=a=b=c", "too many"),
            ("en pt", "`en pt`"),
        ] {
            refused(Languages::parse(list), &[part]);
        }
    }
}

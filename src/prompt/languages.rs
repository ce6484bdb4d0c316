//! Names of languages: what a request may call one, and what a prompt calls it.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use super::SHOWN;
use crate::error::{Error, Result, shortened};

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
}

/// The languages of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Languages {
    list: Vec<Language>,
}

/// Code, English name, Chinese name, own name.
const KNOWN: [(&str, &str, &str, &str); 38] = [
    ("zh", "Chinese", "中文", "中文"),
    ("en", "English", "英语", "English"),
    ("fr", "French", "法语", "Français"),
    ("pt", "Portuguese", "葡萄牙语", "Português"),
    ("es", "Spanish", "西班牙语", "Español"),
    ("ja", "Japanese", "日语", "日本語"),
    ("tr", "Turkish", "土耳其语", "Türkçe"),
    ("ru", "Russian", "俄语", "Русский"),
    ("ar", "Arabic", "阿拉伯语", "العربية"),
    ("ko", "Korean", "韩语", "한국어"),
    ("th", "Thai", "泰语", "ไทย"),
    ("it", "Italian", "意大利语", "Italiano"),
    ("de", "German", "德语", "Deutsch"),
    ("vi", "Vietnamese", "越南语", "Tiếng Việt"),
    ("ms", "Malay", "马来语", "Bahasa Melayu"),
    ("id", "Indonesian", "印尼语", "Bahasa Indonesia"),
    ("tl", "Filipino", "菲律宾语", "Filipino"),
    ("hi", "Hindi", "印地语", "हिन्दी"),
    ("zh-Hant", "Traditional Chinese", "繁体中文", "繁體中文"),
    ("pl", "Polish", "波兰语", "Polski"),
    ("cs", "Czech", "捷克语", "Čeština"),
    ("nl", "Dutch", "荷兰语", "Nederlands"),
    ("km", "Khmer", "高棉语", "ខ្មែរ"),
    ("my", "Burmese", "缅甸语", "မြန်မာ"),
    ("fa", "Persian", "波斯语", "فارسی"),
    ("gu", "Gujarati", "古吉拉特语", "ગુજરાતી"),
    ("ur", "Urdu", "乌尔都语", "اردو"),
    ("te", "Telugu", "泰卢固语", "తెలుగు"),
    ("mr", "Marathi", "马拉地语", "मराठी"),
    ("he", "Hebrew", "希伯来语", "עברית"),
    ("bn", "Bengali", "孟加拉语", "বাংলা"),
    ("ta", "Tamil", "泰米尔语", "தமிழ்"),
    ("uk", "Ukrainian", "乌克兰语", "Українська"),
    ("bo", "Tibetan", "藏语", "བོད་སྐད་"),
    ("kk", "Kazakh", "哈萨克语", "Қазақша"),
    ("mn", "Mongolian", "蒙古语", "Монгол"),
    ("ug", "Uyghur", "维吾尔语", "ئۇيغۇرچە"),
    ("yue", "Cantonese", "粤语", "粵語"),
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
    fn known(
        (code, name, chinese, native): (&'static str, &'static str, &'static str, &'static str),
    ) -> Self {
        Self { code: code.into(), name: name.into(), chinese: chinese.into(), native: native.into() }
    }

    fn is_called(&self, name: &str) -> bool {
        [&self.code, &self.name, &self.chinese, &self.native].iter().any(|own| own.to_lowercase() == name)
    }
}

impl Languages {
    /// Reads a list such as `en, pt, tlh=Klingon=克林贡语`: codes of known languages, and others with their English
    /// and Chinese names. The Chinese name may be left out where no prompt needs it.
    pub fn parse(list: &str) -> Result<Self> {
        let mut languages = Self { list: Vec::new() };
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let language = language(item)?;
            if languages.list.iter().any(|other| other.code.eq_ignore_ascii_case(&language.code)) {
                return Err(Error::invalid_argument(format!("`{}` is there twice", language.code)));
            }
            languages.list.push(language);
        }
        if languages.list.is_empty() {
            return Err(Error::invalid_argument(
                "got no language, expected codes separated by commas, such as `en, pt`",
            ));
        }
        Ok(languages)
    }

    /// The language with this code or name, in whichever case. `pt_BR` and `pt-BR` are `pt`.
    pub fn find(&self, asked: &str) -> Result<&Language> {
        let name = asked.trim().to_lowercase();
        let code = name.replace('_', "-");
        let alias = ALIASES.iter().find(|(alias, _)| *alias == code).map(|(_, code)| *code);
        [Some(name.as_str()), Some(code.as_str()), alias, without_region(&code)]
            .into_iter()
            .flatten()
            .find_map(|name| self.list.iter().find(|language| language.is_called(name)))
            .ok_or_else(|| {
                let shown = shortened(asked, SHOWN);
                Error::invalid_argument(format!("got {shown:?}, expected a language of this model: {self}"))
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

fn language(item: &str) -> Result<Language> {
    let mut names = item.split('=').map(str::trim);
    let code = names.next().unwrap_or_default();
    let known = KNOWN.iter().find(|known| known.0.eq_ignore_ascii_case(code)).copied().map(Language::known);
    let (english, chinese) = (names.next(), names.next());
    let wrong = |reason: &str| {
        Err(Error::invalid_argument(format!(
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
            // No prompt should call a language by an empty name: what it has in English serves.
            let chinese = chinese.map(str::to_owned).map(Cow::Owned);
            let chinese = chinese.or(known.map(|known| known.chinese)).unwrap_or(english.to_owned().into());
            Ok(Language { code: code.to_owned().into(), name: english.to_owned().into(), chinese, native })
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

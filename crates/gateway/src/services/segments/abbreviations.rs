//! Words with a full stop that does not end a sentence, by language.
//!
//! A word is listed without its last full stop. In lower case it stands for every spelling of it, otherwise for itself and
//! for all capitals. A title has a capital here only where its lower case is an ordinary word.

use std::{collections::HashSet, sync::LazyLock};

/// The words that hold for a text.
#[derive(Debug)]
pub struct Abbreviations(Vec<&'static Words>);

/// As they are written here.
struct Lists {
    /// As `textgen-languages` has it.
    code: &'static str,
    /// Never at a sentence's end: titles, parts of names, "for example".
    before_anything: &'static str,
    /// Not at a sentence's end where a number follows.
    before_number: &'static str,
    /// At a sentence's end only where one of the `starters` follows.
    before_name: &'static str,
    /// Words that begin a sentence, as they are written there; hardly ever in the midst of one or of a name.
    starters: &'static str,
    /// True where `5.` is how the language writes "fifth".
    ordinals: bool,
}

/// As they are looked up.
#[derive(Debug)]
struct Words {
    code: &'static str,
    before_anything: Spellings,
    before_number: Spellings,
    before_name: Spellings,
    starters: HashSet<&'static str>,
    ordinals: bool,
}

#[derive(Debug)]
struct Spellings {
    whole: HashSet<String>,
    ends: Vec<&'static str>,
}

static WORDS: LazyLock<Vec<Words>> = LazyLock::new(|| {
    let words = |lists: &Lists| Words {
        code: lists.code,
        before_anything: Spellings::of(lists.before_anything),
        before_number: Spellings::of(lists.before_number),
        before_name: Spellings::of(lists.before_name),
        starters: lists.starters.split_whitespace().collect(),
        ordinals: lists.ordinals,
    };
    LISTS.iter().map(words).collect()
});

impl Spellings {
    fn of(list: &'static str) -> Self {
        let words = || list.split_whitespace();
        let whole = words().flat_map(|word| [word.to_owned(), word.to_uppercase()]).collect();
        Self { whole, ends: words().filter_map(|word| word.strip_prefix('-')).collect() }
    }

    fn has(&self, word: &str) -> bool {
        let lower = word.to_lowercase();
        self.whole.contains(word)
            || self.whole.contains(&lower)
            || self.ends.iter().any(|end| lower.ends_with(end))
    }
}

impl Abbreviations {
    /// Of the language with this code. Where it is not known or has no lists, the English and the Russian ones: their letters
    /// are not the same.
    pub fn of(language: Option<&str>) -> Self {
        let of = |code: &str| WORDS.iter().find(|words| words.code == code);
        let own = language.and_then(|code| code.split('-').next()).and_then(of);
        Self(own.map_or_else(|| ["en", "ru"].into_iter().filter_map(of).collect(), |own| vec![own]))
    }

    /// True when the word never ends a sentence.
    pub fn is_before_anything(&self, word: &str) -> bool {
        self.0.iter().any(|words| words.before_anything.has(word))
    }

    /// True when the word does not end a sentence where a number follows.
    pub fn is_before_number(&self, word: &str) -> bool {
        self.0.iter().any(|words| words.before_number.has(word))
    }

    /// True when the word ends a sentence only where a starter follows.
    pub fn is_before_name(&self, word: &str) -> bool {
        self.0.iter().any(|words| words.before_name.has(word))
    }

    /// True when the word, as it is written, begins a sentence.
    pub fn starts_sentence(&self, word: &str) -> bool {
        self.0.iter().any(|words| words.starters.contains(word))
    }

    /// True when a number with a full stop is an ordinal number.
    pub fn has_ordinals(&self) -> bool {
        self.0.iter().any(|words| words.ordinals)
    }
}

const LISTS: [Lists; 13] = [
    Lists {
        code: "en",
        before_anything: "mr mrs ms mx messrs mmes dr drs prof Rev Fr Hon Pres Gov Sen Rep Gen Maj Col lt sgt capt cpl cmdr
            Adm supt Insp Det Sts Ste Mt Mts Ft Pt Pte Pvt asst Assoc Amb atty Dept vs viz cf approx e.g i.e eg
            ie ca al esp resp incl excl aka mlle mme msgr sr sra",
        before_number: "no nos nr p pp vol vols ch chap sec sect fig figs eq eqs ex art par para ver v Jan Feb Mar Apr Jun Jul
            Aug Sep Sept Oct Nov Dec tel ext cat ed est c ca approx max min
            ft lb lbs oz yd hr hrs",
        before_name: "Jr Inc Ltd Co Corp Bros St Ave Blvd Rd Hwy Pl Sq Univ Assn Ph.D M.D B.A M.A B.Sc M.Sc Mon Tue Tues Wed Thu
            Thur Thurs Fri Sat Calif Mass Fla Tex Ariz Conn Mich Minn Penn Wash etc Est a.m p.m am pm",
        starters: "The A An This That These Those He She It We They You I There Here His Her Its Our Their My Your In On At
            By For From With Without After Before During Since Until While When Where Why How What Who Which If
            Although Though Because But And Or So Yet Then Thus However Therefore Moreover Meanwhile Nevertheless
            Please Let Not No Yes Now Today Yesterday Tomorrow Later Also Still Some Many Most All Both Each Every
            Another Other Is Are Was Were Do Does Did Can Could Will Would Should Have Has Had",
        ordinals: false,
    },
    Lists {
        code: "pt",
        before_anything: "sr sra srs sras srta srtas sr.ª dr dra drs dras prof profa profs profas prof.ª eng enga arq adv pe
            fr Ir D Dom sto sta av R Al Pq Pç pça trav Tv rod estr jd Gen Cel Cap Ten sgt Maj Alm Brig exmo exma ilmo ilma
            Rev revmo mons Ex Exa Exas v.exa s.exa sr.a p.ex i.e e.g vs cf obs ref aprox apto ap bl tel cx séc fig",
        before_number: "n nº n.º nr no núm p pp pg pag pág págs vol vols cap caps art arts inc par séc figs ed v jan fev mar abr
            mai jun jul ago set out nov dez km máx mín lt qd fl fls",
        before_name: "Jr Ltda Cia S.A Inc Co Corp etc Lda d.C a.C",
        starters: "O A Os As Um Uma Uns Umas Este Esta Esse Essa Isto Isso Aquele Aquela Ele Ela Eles Elas Eu Nós Você Vocês
            Não Sim Mas E Ou Porém Contudo Então Assim Depois Antes Quando Onde Como Porque Por Para Com Sem Em No Na
            Nos Nas Num Numa Ao À De Do Da Dos Das Se Que Quem Qual Hoje Ontem Amanhã Agora Também Já Ainda Muito
            Muitos Todos Cada Outro Outra Seu Sua Meu Minha Há É Foi Era",
        ordinals: false,
    },
    Lists {
        code: "es",
        before_anything: "sr sra sres sras srta srtas D Da dª dña dr dra dres dras prof profa ing lic arq abog mtro mtra gral cnel
            Cap cdte tte sgto Alm Fr hno hna mons pbro Rev sto sta ud uds vd vds excmo excma ilmo ilma av avda avd C
            Cl ctra Pl pza Po P.º Pso Bo dpto depto apdo p.ej ej i.e e.g vs cf ref aprox tel EE JJ
            FF CC RR",
        before_number: "n no nº n.º núm nro p pp pg pág págs vol vols cap caps art arts fig figs ed v s siglo ene feb mar abr may jun
            jul ago sep sept oct nov dic km máx mín",
        before_name: "Jr Cía Ltda S.A S.L Inc Corp etc d.C a.C EE.UU UU OO AA HH a.m p.m",
        starters: "El La Los Las Lo Un Una Unos Unas Este Esta Esto Ese Esa Eso Aquel Aquella Él Ella Ellos Ellas Yo Nosotros
            Usted Ustedes No Sí Pero Y O Sin Entonces Así Después Antes Cuando Donde Como Porque Por Para Con En Al De Del
            Si Que Quien Hoy Ayer Mañana Ahora También Ya Aún Muchos Todos Cada Otro Otra Su Sus Mi Hay Es Fue Era",
        ordinals: false,
    },
    Lists {
        code: "fr",
        before_anything: "M MM mr mme mmes mlle mlles Me mgr dr drs pr Prof st ste gén cdt cne lt Adj av Bd Boul Pl Fg Chem ex
            p.ex c.-à-d env cf vs réf tél",
        before_number: "no n nº p pp vol chap art fig figs al éd t janv févr avr juil sept oct nov déc av apr max min",
        before_name: "Cie Inc Ltée S.A etc J.-C prof",
        starters: "Le La Les Un Une Des Ce Cet Cette Ces Il Elle Ils Elles On Je Tu Nous Vous Mais Et Ou Or Donc Car Puis Ensuite
            Alors Ainsi Après Avant Quand Où Comme Comment Pourquoi Parce Pour Par Avec Sans Dans En Sur Sous Au Aux
            De Du Si Que Qui Quel Quelle Hier Demain Maintenant Aussi Son Sa Ses Mon Ma Notre Leur Non Oui",
        ordinals: false,
    },
    Lists {
        code: "de",
        before_anything: "hr hrn fr frl dr dres prof ing dipl Mag St hl gebr frhr Fa mr mrs ms pfr Str bzw bspw ca vgl evtl ggf sog insb inkl exkl
            zzgl abzgl usf z.B d.h u.a i.d.R o.ä s.o s.u z.T v.a i.A z.Hd m.E e.V vs Abb Kap Mio Mrd Tsd geb gest verh
            allg bes dt engl frz ital lat österr schweiz",
        before_number: "-str Nr Nrn Abs Art Aufl Bd Bde S Tel Jan Feb Febr Mär Apr Jun Jul Aug Sep Sept Okt Nov Dez Tab Ziff max mind
            min Postf",
        before_name: "usw etc Jh Jhd n.Chr v.Chr",
        starters: "Der Die Das Den Dem Ein Eine Einen Dieser Diese Dieses Er Sie Es Ich Du Wir Ihr Man Aber Und Oder Doch Denn Dann
            Danach Davor Dort Da Hier So Also Jedoch Außerdem Wenn Als Wann Wo Wie Warum Weil Ob Obwohl Während Nach Vor
            Bei Mit Ohne In Im Am An Auf Aus Für Von Zu Zum Zur Heute Gestern Morgen Jetzt Auch Nur Noch Nicht Kein
            Keine Viele Alle Jeder Sein Seine Mein Meine Unser",
        ordinals: true,
    },
    Lists {
        code: "it",
        before_anything: "sig sigg sig.ra sig.na sigra sigg.ri dott dott.ssa dr prof prof.ssa ing avv arch geom rag on sen Gen col
            Cap Ten mons Fr Don Ill egr gent spett p.za v.le c.so p.es es i.e ecc.mo cfr cf vs ca circa tel rif",
        before_number: "n nº nr num p pp pag pagg vol voll cap capp art artt fig figg ed sec gen feb mar apr mag giu lug ago set sett
            ott nov dic max min",
        before_name: "S.p.A S.r.l S.a.s ecc etc Jr a.C d.C",
        starters: "Il Lo La I Gli Le Un Uno Una Questo Questa Quello Quella Lui Lei Egli Ella Io Noi Voi Loro Non Sì Ma E O Però
            Quindi Allora Poi Dopo Prima Quando Dove Come Perché Per Con Senza In Nel Nella Al Alla Di Del Della Da Dal
            Se Che Chi Oggi Ieri Domani Ora Anche Già Ancora Molti Tutti Ogni Suo Sua Mio Mia È Era",
        ordinals: false,
    },
    Lists {
        code: "nl",
        before_anything: "dhr mevr mw mr dr drs ir ing prof ds St gebr bijv bv d.w.z d.m.v i.p.v o.a m.a.w t.o.v z.g o.l.v m.b.t i.v.m
            ca vgl resp excl incl evt zgn vs jl jhr",
        before_number: "-str nr nrs blz pag p hfst art afb fig deel dl jan feb febr mrt apr jun jul aug sept okt nov dec tel max min",
        before_name: "enz etc B.V N.V e.a n.Chr v.Chr",
        starters: "De Het Een Deze Dit Die Dat Hij Zij Ze Ik Jij Je Wij We Jullie U Er Maar En Of Want Dus Toch Toen Dan Daarna Daarom
            Hier Daar Als Wanneer Waar Hoe Waarom Omdat Hoewel Tijdens Na Voor Bij Met Zonder In Op Aan Uit Van Naar
            Vandaag Gisteren Morgen Nu Ook Nog Niet Geen Veel Alle Elke Zijn Haar Mijn Ons Onze",
        ordinals: false,
    },
    Lists {
        code: "ru",
        before_anything: "г-н г-жа гг им пр просп ул пер пл наб бул д кв корп стр обл р-н пос дер с св о акад проф доц канд инж ген
            полк подп кап лейт серж тов гр напр т.е т.к т.н т.ч др.-греч см ср англ нем фр лат греч рус ок",
        before_number: "№ рис табл гл п пп ст ч т тт вып янв февр мар апр июн июл авг сент окт нояб дек тел прим вт",
        before_name: "руб коп тыс млн млрд др проч пр т.д т.п н.э л вв в гг г",
        starters: "Он Она Оно Они Я Ты Мы Вы Это Этот Эта Эти Тот Та Те Но И А Или Однако Поэтому Потом Затем Тогда Так Также Когда
            Где Как Почему Потому Если Хотя После До Перед Во В На С Со К По За Из От Для Без При О Об У Не Нет Да Сегодня
            Вчера Завтра Сейчас Теперь Уже Ещё Все Каждый Многие Его Её Их Наш Мой Там Здесь Что Кто",
        ordinals: false,
    },
    Lists {
        code: "uk",
        before_anything: "п пп пан м вул просп пров пл наб бул буд кв обл р-н ім св акад проф доц інж ген напр тобто т.зв див пор ок",
        before_number: "№ рис табл гл ст с ч т січ лют бер квіт трав черв лип серп вер жовт лист груд тел",
        before_name: "грн коп тис млн млрд ін т.д т.п н.е р рр в",
        starters: "Він Вона Воно Вони Я Ти Ми Ви Це Цей Ця Ці Той Та Те Ті Але І Й А Або Однак Тому Потім Тоді Так Також Коли Де Як
            Чому Якщо Хоча Після До Перед У В На З Із До По За Від Для Без При Про Не Ні Сьогодні Вчора Завтра Зараз
            Тепер Вже Ще Усі Всі Кожен Багато Його Її Їх Наш Мій Там Тут Що Хто",
        ordinals: false,
    },
    Lists {
        code: "pl",
        before_anything: "p pp pan dr hab prof inż mgr lek ks bp św o gen płk mjr kpt por sierż ul al pl os im np tzn tzw m.in t.j tj
            ob zob por ok godz woj pow gm śp",
        before_number: "nr nry s str t tom rozdz art ust pkt poz rys tab r stycz lut mar kwiet czerw lip sierp wrzes paźdz list grud
            tel maks min",
        before_name: "itd itp etc n.e r w zł gr tys mln mld",
        starters: "Przedtem On Ona Ono Oni One Ja Ty My Wy To Ten Ta Te Ci Ale I A Lub Albo Jednak Dlatego Potem Następnie Wtedy Tak Także Kiedy
            Gdy Gdzie Jak Dlaczego Ponieważ Jeśli Chociaż Po Przed W We Na Z Ze Do Od Dla Bez Przy O U Za Nie Dziś
            Dzisiaj Wczoraj Jutro Teraz Już Jeszcze Wszyscy Każdy Wiele Jego Jej Ich Nasz Mój Tam Tu Co Kto",
        ordinals: true,
    },
    Lists {
        code: "cs",
        before_anything: "p pí sl dr prof doc ing mgr bc judr mudr phdr rndr st sv gen plk mjr kpt ul nám tř tzv tzn např resp popř
            mj aj cca viz srov",
        before_number: "č čís s str sv kap odst obr tab roč led ún břez dub květ červ srp září říj list pros tel max min",
        before_name: "atd apod s.r.o a.s n.l r tis mil mld",
        starters: "On Ona Ono Oni Já Ty My Vy To Ten Ta Ti Ale A I Nebo Však Proto Potom Pak Tehdy Tak Také Když Kde Jak Proč Protože
            Pokud Ačkoli Po Před V Ve Na S Se Z Ze Do Od Pro Bez Při O U Za Ne Dnes Včera Zítra Nyní Už Ještě Všichni
            Každý Mnoho Jeho Její Jejich Náš Můj Tam Tady Co Kdo",
        ordinals: true,
    },
    Lists {
        code: "tr",
        before_anything: "Sn dr prof doç yrd öğr Av Alb Yzb Org Mah Cad Sok Bul Blv Apt bkz örn vb.nin yy krş",
        before_number: "no nr s sf sy cilt böl md Oca Şub Mar Nis Haz Tem Ağu Eyl Eki Kas Ara tel",
        before_name: "vb vs vd A.Ş Ltd Şti M.Ö M.S T.C",
        starters: "Bu Şu O Bunlar Onlar Ben Sen Biz Siz Ama Fakat Ancak Ve Veya Sonra Önce Çünkü Eğer Bir Her Bugün Dün Yarın Şimdi
            Orada Burada Ne Kim Nasıl Neden",
        ordinals: true,
    },
    Lists {
        code: "sv",
        before_anything: "hr fr dr prof doc ing St bl.a t.ex d.v.s dvs fr.o.m t.o.m m.fl s.k jfr ca kl resp inkl exkl",
        before_number: "nr s sid kap art fig jan feb febr mar apr jun jul aug sep sept okt nov dec tel max min",
        before_name: "etc osv m.m f.Kr e.Kr",
        starters: "Den Det De Denna Detta Dessa Han Hon Jag Du Vi Ni En Ett Men Och Eller Dock Sedan Då När Där Här Om Eftersom Efter
            Innan Med Utan I På Av För Från Till Idag Igår Imorgon Nu Också Inte Alla Varje Hans Hennes",
        ordinals: false,
    },
];

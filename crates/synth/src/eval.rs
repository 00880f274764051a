//! Runs the files in an engine that has no clock, no chance, no way out, and counted steps and memory.

use crate::library::{INTERNAL_NAME, INTERNAL_SCRIPT, NAME, PRELUDE, SCRIPT, SOURCE};
use crate::limits::{
    FRAMES_MAX, HEAP_BYTES_MAX, NOTE_CHARS_MAX, NOTES_MAX, PIPELINES_MAX, STACK_BYTES_MAX, TICKS_MAX,
};
use crate::locate::locate;
use crate::problem::{Place, Problem};
use crate::strip::{Stripped, resolve};
use crate::value::{NotData, Reader};
use crate::wire::{Draft, Kind, Report, Reports};
use rquickjs::context::intrinsic as has;
use rquickjs::function::Func;
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{
    CatchResultExt, CaughtError, Context, Ctx, Error, Function, Module, Object, Promise, Runtime, Value,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tidegate_core::expr::suggest::nearest;

type Modules = Rc<BTreeMap<String, Stripped>>;

struct Names(Modules);

impl Resolver for Names {
    fn resolve<'js>(
        &mut self,
        _ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        // What nobody imports is asked for by this file, and knows its name.
        if base.is_empty() || base == INTERNAL_NAME {
            return Ok(name.to_owned());
        }
        resolve(base, name, |path| self.0.contains_key(path))
            .map_err(|(_, message, _)| Error::new_resolving_message(base, name, message))
    }
}

struct Sources(Modules);

impl Loader for Sources {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        let own = |name| self.0.get(name).map(|module| module.code.as_str());
        let code = match name {
            NAME => SCRIPT,
            INTERNAL_NAME => INTERNAL_SCRIPT,
            name => own(name).ok_or_else(|| Error::new_loading(name))?,
        };
        Module::declare(ctx.clone(), name, code)
    }
}

/// What came of running the files.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// They were reported.
    pub(crate) drafts: Vec<Draft>,
    pub(crate) notes: Vec<String>,
    pub(crate) problems: Vec<Problem>,
}

/// Runs all files in the order of their names; reports each before it begins, and each draft.
pub(crate) fn run(
    files: &BTreeMap<String, String>,
    modules: BTreeMap<String, Stripped>,
    reports: &mut Reports<'_>,
) -> Result<Ran, Problem> {
    let modules = Rc::new(modules);
    let refused =
        |error: Error| Problem::new("TG399", format!("the engine does not start: {error}"), "report this");
    let runtime = Runtime::new().map_err(refused)?;
    runtime.set_memory_limit(HEAP_BYTES_MAX);
    runtime.set_max_stack_size(STACK_BYTES_MAX);
    runtime.set_loader(Names(modules.clone()), Sources(modules.clone()));
    let used_up = Rc::new(Cell::new(false));
    let (told, mut ticks) = (used_up.clone(), 0);
    runtime.set_interrupt_handler(Some(Box::new(move || {
        ticks += 1;
        told.set(ticks > TICKS_MAX);
        ticks > TICKS_MAX
    })));
    // No Date, no Performance, no WeakRef. Eval is what modules are compiled by; the prelude takes it from programs.
    type Intrinsics = (
        has::Eval,
        has::RegExpCompiler,
        has::RegExp,
        has::Json,
        has::Proxy,
        has::MapSet,
        has::TypedArrays,
        has::Promise,
    );
    let context = Context::builder().with::<Intrinsics>().build(&runtime).map_err(refused)?;
    let notes: Rc<RefCell<Vec<String>>> = Rc::default();
    let ran = context.with(|ctx| {
        let mut engine = Engine { ctx: ctx.clone(), files, modules, used_up, file: String::new() };
        let mut ran = Ran::default();
        if let Err(problem) = engine.all(&mut ran, &notes, reports) {
            ran.problems.push(problem);
        }
        ran.notes = notes.take();
        ran
    });
    // The process ends: to free what it holds piece by piece would only take time.
    std::mem::forget((context, runtime));
    Ok(ran)
}

struct Engine<'js, 'f> {
    ctx: Ctx<'js>,
    files: &'f BTreeMap<String, String>,
    modules: Modules,
    used_up: Rc<Cell<bool>>,
    /// Which file is run.
    file: String,
}

impl<'js> Engine<'js, '_> {
    fn all(
        &mut self,
        ran: &mut Ran,
        notes: &Rc<RefCell<Vec<String>>>,
        reports: &mut Reports<'_>,
    ) -> Result<(), Problem> {
        let to = notes.clone();
        let note = Func::from(move |text: String| {
            let mut notes = to.borrow_mut();
            if notes.len() < NOTES_MAX {
                notes.push(text.chars().take(NOTE_CHARS_MAX).collect());
            }
        });
        let globals = self.ctx.globals();
        self.told(globals.set("__note", note))?;
        self.told(self.ctx.eval::<(), _>(PRELUDE))?;
        let library = self.import(INTERNAL_NAME)?;
        let function = |name: &str| -> Result<Function<'js>, Problem> { self.told(library.get(name)) };
        let [find, slips, draft] = [function("find")?, function("slips")?, function("draft")?];
        let mut reader = self.told(Reader::new(&self.ctx))?;
        let mut classes: Option<(String, Vec<String>)> = None;
        for file in self.files.keys() {
            reports.say(&Report::Running(file.clone()));
            self.file.clone_from(file);
            let exports = self.import(file)?;
            let found: Vec<Object<'js>> = self.told(find.call((exports,)))?;
            for found in found {
                let kind: String = self.told(found.get("kind"))?;
                let of: Vec<String> = self.told(found.get("classes"))?;
                let kind = match kind.as_str() {
                    "pipeline" => Kind::Pipeline,
                    "organisation" => Kind::Organisation,
                    _ => {
                        classes.get_or_insert((file.clone(), of));
                        continue;
                    }
                };
                let subject: Value<'js> = self.told(found.get("subject"))?;
                if kind == Kind::Pipeline {
                    let problems = &mut ran.problems;
                    self.slips(&slips, &subject, &of, problems)?;
                }
                self.draft(&draft, &subject, &of, &mut reader)?;
                let draft = Draft { kind, file: file.clone(), classes: of };
                reports.draft(draft.clone(), reader.json());
                ran.drafts.push(draft);
                if ran.drafts.len() > PIPELINES_MAX {
                    let message = format!("there are more than {PIPELINES_MAX} pipelines");
                    return Err(Problem::new("TG301", message, "use several folders").at(Place::file(file)));
                }
            }
        }
        if ran.drafts.is_empty() && ran.problems.is_empty() {
            return Err(nothing(self.files, classes));
        }
        Ok(())
    }

    fn import(&self, file: &str) -> Result<Object<'js>, Problem> {
        let promise: Promise<'js> = self.told(Module::import(&self.ctx, file))?;
        match promise.finish::<Object<'js>>() {
            Err(Error::WouldBlock) => {
                let hint = "there are no timers, files or network here: nothing to wait for";
                let message = "it waits for something that never happens (await)";
                Err(Problem::new("TG323", message, hint).at(Place::file(file)))
            }
            result => self.told(result),
        }
    }

    fn draft(
        &self,
        draft: &Function<'js>,
        subject: &Value<'js>,
        classes: &[String],
        reader: &mut Reader<'js>,
    ) -> Result<(), Problem> {
        let class = classes.first().map_or("?", String::as_str);
        let whole: Value<'js> = self.told(draft.call((subject.clone(),))).map_err(|problem| {
            let place = problem.place.clone().filter(|place| place.excerpt.is_some());
            let place = place.or_else(|| locate(self.files, &self.file, classes, &[])).or(problem.place);
            Problem { place, property: Some(format!("class {class}")), ..problem }
        })?;
        let (code, message, hint) = match reader.read(&whole) {
            Ok(()) => return Ok(()),
            Err(NotData::Js(error)) => {
                let problem = self.problem(CaughtError::from_error(&self.ctx, error));
                return Err(Problem { property: Some(property(&reader.path, class)), ..problem });
            }
            Err(NotData::Is { message, hint }) => ("TG330", message, hint.to_owned()),
            Err(NotData::Snake(key)) => {
                let hint = format!("did you mean \"{}\"?", crate::locate::camel(&key.to_lowercase()));
                ("TG103", format!("unknown field '{}'", key.chars().take(100).collect::<String>()), hint)
            }
        };
        let place = locate(self.files, &self.file, classes, &reader.path);
        let place = place.unwrap_or_else(|| Place::file(&self.file));
        let property = Some(property(&reader.path, class));
        Err(Problem { property, ..Problem::new(code, message, hint).at(place) })
    }

    /// Members whose names are nearly those of the library would be passed over without a word.
    fn slips(
        &self,
        slips: &Function<'js>,
        subject: &Value<'js>,
        classes: &[String],
        problems: &mut Vec<Problem>,
    ) -> Result<(), Problem> {
        let found: Option<Object<'js>> = self.told(slips.call((subject.clone(),)))?;
        let Some(found) = found else { return Ok(()) };
        let own: Vec<String> = self.told(found.get("own"))?;
        let known: Vec<String> = self.told(found.get("known"))?;
        for name in &own {
            let Some(meant) = nearest(name, known.iter().map(String::as_str)) else { continue };
            let message = format!("no pipeline has a '{name}'");
            let hint = format!("did you mean '{meant}'? If it is your own, name it less like that one");
            let place = locate(self.files, &self.file, classes, std::slice::from_ref(name));
            let place = place.unwrap_or_else(|| Place::file(&self.file));
            let class = classes.first().map_or("?", String::as_str);
            let property = Some(property(std::slice::from_ref(name), class));
            problems.push(Problem { property, ..Problem::new("TG333", message, hint).at(place) });
        }
        Ok(())
    }

    fn told<T>(&self, result: rquickjs::Result<T>) -> Result<T, Problem> {
        result.catch(&self.ctx).map_err(|error| self.problem(error))
    }

    fn problem(&self, error: CaughtError<'js>) -> Problem {
        let (text, stack) = match error {
            CaughtError::Exception(exception) => {
                let name: Option<String> = exception.as_object().get("name").ok();
                let message = exception.message().unwrap_or_default();
                let stack = exception.stack().unwrap_or_default();
                (format!("{}: {message}", name.unwrap_or_else(|| "Error".to_owned())), stack)
            }
            CaughtError::Value(value) if value.is_null() => (
                "thrown: null, as the engine does when it is out of memory for words".to_owned(),
                String::new(),
            ),
            CaughtError::Value(value) => {
                let text = value.as_string().and_then(|text| text.to_string().ok());
                (
                    format!("thrown: {}", text.unwrap_or_else(|| value.type_name().to_lowercase())),
                    String::new(),
                )
            }
            CaughtError::Error(error) => (error.to_string(), String::new()),
        };
        let mut frames = stack.lines().take(1_000).filter_map(|line| self.frame(line));
        let place = frames.next().unwrap_or_else(|| Place::file(&self.file));
        let others = frames.take(FRAMES_MAX).collect();
        let message: String = text.chars().take(NOTE_CHARS_MAX).collect();
        if self.used_up.get() {
            let message = "it does not end: it took more steps than a definition may";
            let hint = "see whether a loop or a regular expression ends";
            return Problem { others, ..Problem::new("TG321", message, hint).at(place) };
        }
        let (code, hint) = advice(&message);
        Problem { others, ..Problem::new(code, message, hint).at(place) }
    }

    /// A line of a stack, `at f (file:line:column)`, as a place in the user's files; none if it is in the library.
    fn frame(&self, line: &str) -> Option<Place> {
        let line = line.trim().trim_end_matches(')');
        let line = line.rsplit(['(', ' ']).next()?;
        let mut parts = line.rsplitn(3, ':');
        let column: u32 = parts.next()?.parse().ok()?;
        let row: u32 = parts.next()?.parse().ok()?;
        let file = parts.next()?;
        let text = self.files.get(file)?;
        let module = self.modules.get(file)?;
        let (row, column) = module.original(row.checked_sub(1)?, column.saturating_sub(1))?;
        let start: usize = text.split_inclusive('\n').take(row as usize).map(str::len).sum();
        let mut left = column as usize;
        let mut at = start;
        for c in text[start..].chars() {
            if left == 0 || c == '\n' {
                break;
            }
            left = left.saturating_sub(c.len_utf16());
            at += c.len_utf8();
        }
        let word = text[at..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .map(char::len_utf8)
            .sum::<usize>();
        Some(Place::of(file, text, &(at..at + word.max(1))))
    }
}

/// The code of an exception, and what to do about it.
fn advice(message: &str) -> (&'static str, String) {
    const GONE: [&str; 12] = [
        "Date",
        "WeakRef",
        "performance",
        "setTimeout",
        "setInterval",
        "process",
        "fetch",
        "require",
        "crypto",
        "eval",
        "Function",
        "Intl",
    ];
    let has = |text: &str| message.contains(text);
    let unknown = message.strip_suffix(" is not defined").and_then(|rest| rest.rsplit(' ').next());
    let from_library = |name: &str| {
        ["function ", "class ", "const "].iter().any(|kind| SOURCE.contains(&format!("{kind}{name}(")))
            || SOURCE.contains(&format!("class {name} "))
    };
    if has("out of memory") || has("string too long") {
        ("TG322", "a folder's program has 256 MiB".to_owned())
    } else if has("call stack size") {
        ("TG322", "see whether a function calls itself for ever".to_owned())
    } else if has("not extensible") || has("read-only") {
        ("TG320", "what all files share cannot be changed; use a function or a class of your own".to_owned())
    } else if let Some(name) = unknown.filter(|name| from_library(name)) {
        ("TG320", format!("import {{ {name} }} from \"tidegate\""))
    } else if unknown.is_some_and(|name| GONE.contains(&name)) {
        let hint = "the same folder gives the same pipelines: no clock, no chance, no files, no network here";
        ("TG320", hint.to_owned())
    } else if unknown.is_some() {
        ("TG320", "mend the name, or import it".to_owned())
    } else {
        ("TG320", "mend what the line says".to_owned())
    }
}

/// `stages[1].bake.oneBox of class Web`.
pub(crate) fn property(path: &[String], class: &str) -> String {
    let mut text = String::new();
    for part in path {
        if part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
            text.push_str(&format!("[{part}]"));
        } else {
            text.push_str(if text.is_empty() { "" } else { "." });
            text.push_str(part);
        }
    }
    if text.is_empty() { format!("class {class}") } else { format!("{text} of class {class}") }
}

fn nothing(files: &BTreeMap<String, String>, classes: Option<(String, Vec<String>)>) -> Problem {
    let message = "no file exports a pipeline";
    match classes {
        Some((file, classes)) => {
            let class = classes.first().map_or("Web", String::as_str);
            let hint = format!("a class alone is a parent; write: export default new {class}()");
            let place = locate(files, &file, &classes, &[]).unwrap_or_else(|| Place::file(file));
            Problem::new("TG331", message, hint).at(place)
        }
        None => Problem::new(
            "TG331",
            message,
            "write: export default new MyPipeline(), or begin with 'tidegate init'",
        ),
    }
}

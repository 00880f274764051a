// What the evaluator asks of the library; pipelines cannot import it. It finds what a file exports, and turns each pipeline
// into a draft of the canonical model: still with TypeScript's names, and with whatever values the user's code gave.

import {
  ApplicationPipeline,
  CommandPipeline,
  ConfigurationPipeline,
  DefinitionsPipeline,
  Organisation,
  Pipeline,
  type Stage,
} from "tidegate";

/** How deep arrays of pipelines may be nested. */
const NESTED_MAX = 8;

const library = [Pipeline, ApplicationPipeline, CommandPipeline, ConfigurationPipeline, DefinitionsPipeline].map(
  (c) => c.prototype,
);
const isLibrary = (prototype: object) => library.includes(prototype as Pipeline) || prototype === Object.prototype;

// Fields without a default do not show on an object: they are named here.
const withoutDefault = ["service", "repository", "name", "command", "deploy", "observe", "region", "rollbackAll"];

interface Found {
  kind: "pipeline" | "organisation" | "class";
  /** The object's class and its parents, as far as they are the user's; the library's class last. */
  classes: string[];
  subject: object;
}

const seen = new Set<object>();

/** What a module exports, each object once however often it is exported. */
export function find(exports: Record<string, unknown>): Found[] {
  const found: Found[] = [];
  for (const key of Object.keys(exports).sort()) {
    visit(exports[key], found, 0);
  }
  return found;
}

function visit(value: unknown, found: Found[], depth: number) {
  if (typeof value === "function") {
    if (value.prototype instanceof Pipeline) {
      found.push({ kind: "class", classes: [value.name], subject: value });
    }
    return;
  }
  if (typeof value !== "object" || value === null || seen.has(value)) return;
  const kind = value instanceof Pipeline ? "pipeline" : value instanceof Organisation ? "organisation" : undefined;
  if (kind !== undefined) {
    seen.add(value);
    found.push({ kind, classes: classes(value), subject: value });
  } else if (Array.isArray(value) && depth < NESTED_MAX) {
    for (const element of value) visit(element, found, depth + 1);
  }
}

function classes(value: object): string[] {
  const names: string[] = [];
  for (let p = Object.getPrototypeOf(value); p !== null && p !== Object.prototype; p = Object.getPrototypeOf(p)) {
    names.push(String(p.constructor.name));
    if (isLibrary(p)) break;
  }
  return names;
}

/** The names that a prototype gives, by the prototype: most pipelines have the same parents. */
const given = new Map<object, string[]>();

function names(prototype: object): string[] {
  let names = given.get(prototype);
  if (names === undefined) {
    names = Object.getOwnPropertyNames(prototype).filter((name) => name !== "constructor");
    given.set(prototype, names);
  }
  return names;
}

/** The names that the library knows, by its class. */
const known = new Map<object, Set<string>>();

/**
 * Names of the user's classes that the library does not know, with those that it does: what is nearly one of them is a
 * slip. Undefined without any.
 */
export function slips(pipeline: Pipeline): { own: string[]; known: string[] } | undefined {
  const own = new Set(Object.keys(pipeline));
  let p = Object.getPrototypeOf(pipeline);
  for (; p !== null && !isLibrary(p); p = Object.getPrototypeOf(p)) {
    for (const name of names(p)) own.add(name);
  }
  let all = known.get(p);
  if (all === undefined) {
    all = new Set([...withoutDefault, ...defaults(pipeline)]);
    for (let q = p; q !== null && q !== Object.prototype; q = Object.getPrototypeOf(q)) {
      for (const name of names(q)) all.add(name);
    }
    known.set(p, all);
  }
  for (const name of all) own.delete(name);
  return own.size === 0 ? undefined : { own: [...own].sort(), known: [...all].sort() };
}

const fields: [abstract new () => Pipeline, string[]][] = [
  [Pipeline, ["boxesPerAz", "observeOnly", "kind"]],
  [ApplicationPipeline, ["health", "limits", "drainTimeout", "stopTimeout"]],
  [CommandPipeline, ["manyBoxes", "undo", "timeLimit"]],
  [ConfigurationPipeline, ["reload", "timeout"]],
  [DefinitionsPipeline, ["folder", "scope"]],
];

function defaults(pipeline: Pipeline): string[] {
  return fields.filter(([of]) => pipeline instanceof of).flatMap(([, names]) => names);
}

/** A value, whether it was written as a property or as a method. */
function value(of: object, key: string): unknown {
  const found = (of as Record<string, unknown>)[key];
  return typeof found === "function" ? found.call(of) : found;
}

/** The draft of the canonical model. */
export function draft(subject: Pipeline | Organisation): object {
  if (subject instanceof Organisation) {
    const { name, users, teams, services, regions, prometheus } = subject.values;
    return { schema: "tidegate.organisation/1", name, users, teams, services, regions, prometheus };
  }
  const get = (key: string) => value(subject, key);
  const service = get("service");
  const named = get("name");
  return {
    schema: "tidegate.pipeline/1",
    // Without a service that one is what is missing.
    name: named !== undefined ? named : service === undefined ? "unnamed" : `${service}-${get("kind")}`,
    service,
    sources: get("sources"),
    build: get("build"),
    run: run(subject, get),
    stages: stages(get),
    rolling: get("rolling"),
    rollback: scope(get("rollbackAll")),
    mode: get("observeOnly") ? "observe-only" : "act",
  };
}

/** What is not said is the team's. */
function scope(all: unknown): string | undefined {
  return all === undefined ? undefined : all ? "production" : "unfinished-waves";
}

function run(subject: Pipeline, get: (key: string) => unknown): object {
  const pick = (keys: string[]) => Object.fromEntries(keys.map((key) => [key, get(key)]));
  const engine =
    subject instanceof CommandPipeline
      ? {
          command: {
            ...pick(["deploy", "observe", "timeLimit"]),
            shape: get("manyBoxes") ? "many-boxes" : "one-unit",
            rollback: get("undo"),
          },
        }
      : subject instanceof ConfigurationPipeline
        ? { configuration: pick(["reload", "timeout"]) }
        : subject instanceof DefinitionsPipeline
          ? { definitions: pick(["folder", "scope"]) }
          : { process: pick(["command", "health", "limits", "drainTimeout", "stopTimeout"]) };
  return { engine, ...pick(["environment", "secrets", "calls"]) };
}

/** What a stage does not say is the pipeline's. Something that is no list of stages goes on as it is, to be told. */
function stages(get: (key: string) => unknown): unknown {
  const list = get("stages");
  if (!Array.isArray(list)) return list;
  const common = { boxesPerAz: get("boxesPerAz"), tests: get("tests"), bake: get("bake") };
  const waves = get("waves");
  return list.map((stage: Stage) => {
    if (typeof stage !== "object" || stage === null) return stage;
    const whole: Record<string, unknown> = { ...stage };
    const fill = whole.environment === "production" ? { ...common, waves } : common;
    for (const [key, of] of Object.entries(fill)) {
      if (whole[key] === undefined) whole[key] = of;
    }
    return whole;
  });
}

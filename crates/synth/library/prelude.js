// Takes from a fresh engine what could make two runs differ or make code of texts, and freezes what all share, so that
// nobody's file changes another's. Errors stay changeable: classes of errors set their own name.
(() => {
  "use strict";
  delete Math.random;
  for (const f of [function () {}, async function () {}, function* () {}, async function* () {}]) {
    Object.defineProperty(Object.getPrototypeOf(f), "constructor", { value: undefined });
  }
  for (const name of ["eval", "Function", "SharedArrayBuffer", "Atomics", "queueMicrotask", "setTimeout", "performance"]) {
    delete globalThis[name];
  }
  const note = globalThis.__note;
  delete globalThis.__note;
  const stringify = JSON.stringify;
  const text = (value) => {
    if (typeof value === "string") return value.slice(0, 1000);
    try {
      return String(stringify(value) ?? String(value)).slice(0, 1000);
    } catch {
      return typeof value;
    }
  };
  const print = (...values) => note(values.slice(0, 20).map(text).join(" "));
  globalThis.console = { log: print, info: print, warn: print, error: print, debug: print };

  const seen = new Set();
  const freeze = (value) => {
    if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) return;
    if (value === globalThis || value instanceof Error || value === Error.prototype) return;
    if (typeof value === "function" && (value === Error || Object.getPrototypeOf(value) === Error)) return;
    seen.add(value);
    Object.freeze(value);
    freeze(Object.getPrototypeOf(value));
    const keys = Reflect.ownKeys(value);
    // Most functions have a length and a name and nothing to be frozen: without these it takes half the time.
    if (typeof value === "function" && keys.length === 2 && keys[0] === "length" && keys[1] === "name") return;
    for (const key of keys) {
      const { value: of, get, set } = Object.getOwnPropertyDescriptor(value, key);
      freeze(of), freeze(get), freeze(set);
    }
  };
  for (const key of Reflect.ownKeys(globalThis)) {
    freeze(Object.getOwnPropertyDescriptor(globalThis, key).value);
  }
  for (const value of [[][Symbol.iterator](), new Map().keys(), new Set().keys(), ""[Symbol.iterator](),
    (function* () {})(), (async () => {})(), (async function* () {})(), /a/[Symbol.matchAll]("")]) {
    freeze(Object.getPrototypeOf(value));
  }
  Object.preventExtensions(globalThis);
})();

// Compiles docs/tok.ksy for Python and JavaScript, and reads .tok files with the reader that comes out.
//   node kaitai.js FOLDER DESCRIPTION compile LANGUAGE       prints the compiled reader
//   node kaitai.js FOLDER DESCRIPTION read FILE ...           prints what is in the files, as JSON
// FOLDER holds node_modules with kaitai-struct-compiler, kaitai-struct and js-yaml.
"use strict";
const fs = require("fs");
const [folder, description, verb, ...rest] = process.argv.slice(2);
const load = (name) => require(require.resolve(name, { paths: [folder] }));

const compile = async (language) =>
  Object.values(
    await load("kaitai-struct-compiler").compile(language, load("js-yaml").load(fs.readFileSync(description, "utf8")), null, false),
  )[0];

const told = (value) => {
  // numbers as text: those beyond 2^53 would lose digits in JSON, and those below must not
  if (typeof value === "number") return String(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(told);
  if (value && value.groups) return { value: told(value.value), len: told(value.len) };
  if (value && typeof value === "object") {
    const names = new Set(Object.keys(value));
    for (let type = Object.getPrototypeOf(value); type && type !== Object.prototype; type = Object.getPrototypeOf(type))
      for (const [name, entry] of Object.entries(Object.getOwnPropertyDescriptors(type))) if (entry.get) names.add(name);
    return Object.fromEntries([...names].filter((name) => !name.startsWith("_")).map((name) => [name, told(value[name])]));
  }
  return value;
};

(async () => {
  if (verb === "compile") return process.stdout.write(await compile(rest[0]));
  const module_ = { exports: {} };
  new Function("module", "exports", "require", await compile("javascript"))(module_, module_.exports, (name) =>
    load(name.replace(/^kaitai-struct\/.*/, "kaitai-struct/KaitaiStream")),
  );
  const Tok = module_.exports.Tok || module_.exports;
  const Stream = load("kaitai-struct/KaitaiStream");
  const all = rest.map((name) => told(new Tok(new Stream(new Uint8Array(fs.readFileSync(name)).buffer))));
  process.stdout.write(JSON.stringify(all));
})();

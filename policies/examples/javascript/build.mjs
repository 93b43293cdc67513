// Makes a component of `javascript.js`: `npm install`, then `node build.mjs OUT`.
//
// What a policy does not have is left out, so that the component imports nothing. (componentize-js imports preview2-shim
// without naming it, so package.json names the version that it was made with.)

import { mkdir, copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { componentize } from "@bytecodealliance/componentize-js";

const here = fileURLToPath(new URL(".", import.meta.url));
const out = process.argv[2];
if (!out) {
  console.error("usage: node build.mjs OUT, the folder that the gate serves from");
  process.exit(2);
}
const { component } = await componentize({
  sourcePath: join(here, "javascript.js"),
  witPath: process.env.POLICY_WIT ?? join(here, "../../../wit/policy.wit"),
  worldName: "policy",
  disableFeatures: ["stdio", "random", "clocks", "http", "fetch-event"],
});
await mkdir(out, { recursive: true });
// What the component needs first: the folder may be read while we write.
await copyFile(join(here, "javascript.toml"), join(out, "javascript.toml"));
await writeFile(join(out, "javascript.wasm"), component);

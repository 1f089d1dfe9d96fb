import assert from "node:assert/strict";
import { test } from "node:test";
import { LIST, TABLE, newState, readState, writeState } from "../state.js";

/** @type {import("../state.js").State} */
const FULL = {
  slide: "b45/60 &#ü", other: "x=y", at: [1234.25, -5.5, 0.731234], opacity: { classes: 0.55, probability: 0.2, uncertainty: 1, tissue: 0, coverage: 0, artifacts: 0.3 },
  channel: "tumor & <b>", outlines: false, off: [2, 17], threshold: 0.35, of: "stroma", safe: true, turn: 270, minimap: false, brightness: 85, contrast: 140, gray: true, table: { group: "a & b", area: 2.5, sort: "class", from: 200 }, marked: 0, list: { ...LIST, find: "a&b", sort: "-date" },
};

test("a state survives the address", () => {
  assert.deepEqual(readState(writeState(FULL)), FULL);
  assert.deepEqual(readState(writeState(newState("a"))), newState("a"));
  assert.equal(writeState(newState("a")), "#slide=a");
  assert.equal(writeState(newState()), "");
  const table = { ...newState("a"), table: { ...TABLE } };
  assert.deepEqual(readState(writeState(table)), table);
  const page = { ...newState(), list: { find: "batch & 2", status: "done", model: "m 1", since: "2026-01-31", until: "2026-02-01", regions: 7, sort: "-regions", from: 120 } };
  assert.deepEqual(readState(writeState(page)), page);
});

test("what is not understood is left at its default", () => {
  const bad = "#slide=a&at=1,2,NaN&classes=7&probability=-1&off=1,x&threshold=zero&outlines=maybe&colors=red&other=1&turn=45&minimap=x&brightness=0&contrast=many&gray=yes&region=-1&__proto__=1";
  assert.deepEqual(readState(bad), newState("a"));
  assert.deepEqual(readState("#at=1,2,0&from=-3&since=yesterday&regions=x"), newState());
  assert.equal(readState("#from=x").list.from, 0);
  assert.deepEqual(readState("#slide=a&table=area%3D-5%26from%3Dx").table, TABLE);
  assert.deepEqual(readState("#slide=a&off=1,999,2.5,-3,4").off, [1, 4]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { newState, readState, writeState } from "../state.js";

/** @type {import("../state.js").State} */
const FULL = {
  slide: "b45/60 &#ü", other: "x=y", at: [1234.25, -5.5, 0.731234], opacity: { classes: 0.55, probability: 0.2, uncertainty: 1, tissue: 0, coverage: 0, artifacts: 0.3 },
  channel: "tumor & <b>", outlines: false, off: [2, 17], threshold: 0.35, of: "stroma", safe: true, turn: 270, minimap: false, brightness: 85, contrast: 140, gray: true, find: "", from: 0,
};

test("a state survives the address", () => {
  assert.deepEqual(readState(writeState(FULL)), FULL);
  assert.deepEqual(readState(writeState(newState("a"))), newState("a"));
  assert.equal(writeState(newState("a")), "#slide=a");
  assert.equal(writeState(newState()), "");
  const page = { ...newState(), find: "batch & 2", from: 120 };
  assert.deepEqual(readState(writeState(page)), page);
});

test("what is not understood is left at its default", () => {
  const bad = "#slide=a&at=1,2,NaN&classes=7&probability=-1&off=1,x&threshold=zero&outlines=maybe&colors=red&other=1&turn=45&minimap=x&brightness=0&contrast=many&gray=yes&__proto__=1";
  assert.deepEqual(readState(bad), newState("a"));
  assert.deepEqual(readState("#at=1,2,0&from=-3"), newState());
  assert.equal(readState("#from=x").from, 0);
  assert.deepEqual(readState("#slide=a&off=1,999,2.5,-3,4").off, [1, 4]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { statusText, unfinished } from "../status.js";

test("what is not finished says how far it is, and whether anybody is at it", () => {
  const half = { status: "", version: "", blocks_done: 3, blocks_failed: 0, blocks_total: 6, tiles_done: 20, tiles_total: 41 };
  assert.equal(statusText("running", half), "running: 3 of 6 blocks (49 %)");
  assert.equal(statusText("interrupted", half), "interrupted: 3 of 6 blocks (49 %); the same command resumes it");
  assert.equal(statusText("running", { ...half, blocks_done: 0, blocks_total: 0, tiles_done: 0, tiles_total: 0 }), "running: 0 of 0 blocks");
  assert.equal(statusText("running", { ...half, blocks_failed: 1 }), "running: 3 of 6 blocks (49 %), 1 unreadable");
  assert.equal(statusText("incomplete", null), "incomplete: parts of the slide could not be read");
  assert.deepEqual(["running", "interrupted", "done", "incomplete", "damaged"].map(unfinished), [true, true, false, false, false]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { nextPower, powerAt, powerText, scaleAt } from "../magnification.js";

test("40× is 0.25 µm per pixel", () => {
  assert.equal(powerAt([0.25, 0.25], 1), 40);
  assert.equal(powerAt([0.5, 0.5], 2), 10);
  assert.equal(powerAt(null, 2), null);
  assert.equal(scaleAt([0.25, 0.25], 2.5), 16);
  for (const power of [2.5, 5, 10, 20, 40]) assert.ok(Math.abs(Number(powerAt([0.2528, 0.2471], scaleAt([0.2528, 0.2471], power))) - power) < 1e-9);
});

test("without µm/px the readout is in pixels", () => {
  assert.equal(powerText(null, 8), "1 : 8 px");
  assert.equal(powerText(null, 0.25), "4 : 1 px");
  assert.equal(powerText([0.25, 0.25], 3.2), "12.5×");
});

test("steps go through the powers and stop at the ends", () => {
  assert.deepEqual([0.3, 2.5, 12, 40, 80].map((power) => nextPower(power, 1)), [2.5, 5, 20, 40, 40]);
  assert.deepEqual([1, 2.5, 12, 40, 80].map((power) => nextPower(power, -1)), [2.5, 2.5, 10, 20, 40]);
});

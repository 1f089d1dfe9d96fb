import assert from "node:assert/strict";
import { test } from "node:test";
import { areaOf, areaText, formatPlace, lengthOf, lengthText } from "../measuring.js";

/** @type {[number, number][]} */
const SQUARE = [[100000, 90000], [100400, 90000], [100400, 90200], [100000, 90200]];

test("lengths count each axis by its own scale", () => {
  assert.equal(lengthOf([[0, 0], [3, 4]], null), 5);
  assert.equal(lengthOf([[0, 0], [30, 40]], [0.1, 0.2]), Math.hypot(3, 8));
  assert.equal(lengthOf([[0, 0], [0, 10], [10, 10]], [0.5, 0.25]), 7.5);
  assert.equal(lengthOf([[5, 5]], [1, 1]), 0);
  assert.equal(lengthText([[0, 0], [8000, 0]], [0.25, 0.25]), "2 mm");
  assert.equal(lengthText([[0, 0], [100, 0]], [0.25, 0.25]), "25 µm");
  assert.equal(lengthText([[0, 0], [100, 0]], null), "100 px");
});

test("areas are exact far from the origin, whichever way around", () => {
  assert.equal(areaOf(SQUARE, null), 80000);
  assert.equal(areaOf([...SQUARE].reverse(), [0.5, 0.25]), 10000);
  assert.equal(areaOf(SQUARE.slice(0, 2), [1, 1]), 0);
  assert.equal(areaText(SQUARE, [0.5, 0.5]), "20000 µm², outline 600 µm");
  assert.equal(areaText(SQUARE, null), "80000 px², outline 1200 px");
});

test("a place is the level-0 pixel and mm", () => {
  assert.equal(formatPlace([1234.9, -0.5], [0.25, 0.5]), "x 1234, y -1 px · 0.309, -0.000 mm");
  assert.equal(formatPlace([10, 20], null), "x 10, y 20 px");
});

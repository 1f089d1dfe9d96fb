import assert from "node:assert/strict";
import test from "node:test";
import { boundsOf, covers, polygonsOf } from "../review.js";

const outer = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]], hole = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]];
const polygon = { type: "Polygon", coordinates: [outer, hole] };
const several = { type: "MultiPolygon", coordinates: [[outer, hole], [outer.map(([x, y]) => [x + 20, y])]] };

test("a polygon with a hole covers what is in it and not in the hole", () => {
  assert.equal(covers(polygon, 2, 2), true);
  assert.equal(covers(polygon, 5, 5), false);
  assert.equal(covers(polygon, 12, 2), false);
  assert.equal(covers(several, 25, 5), true);
});

test("bounds are those of all outer rings", () => {
  assert.deepEqual(boundsOf(polygon), [0, 0, 10, 10]);
  assert.deepEqual(boundsOf(several), [0, 0, 30, 10]);
  assert.equal(polygonsOf(several).length, 2);
});

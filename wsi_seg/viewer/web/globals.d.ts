// OpenSeadragon comes by a script tag before our modules.
import type OSD from "openseadragon";
declare global {
  const OpenSeadragon: typeof OSD;
}

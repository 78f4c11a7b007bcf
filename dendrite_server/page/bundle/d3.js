// What the page uses of d3: the tidy tree, and panning and zooming.
export { hierarchy, tree } from "d3-hierarchy";
export { select } from "d3-selection";
export { zoom, zoomIdentity } from "d3-zoom";

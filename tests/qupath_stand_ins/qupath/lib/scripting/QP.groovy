package qupath.lib.scripting

import made.World

/** Signatures: QuPath, qupath.lib.scripting.QP. */
class QP {
    static Object getCurrentImageData() { World.current }

    static Object getProject() { World.project }
}

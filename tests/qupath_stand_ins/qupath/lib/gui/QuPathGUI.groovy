package qupath.lib.gui

import javafx.stage.Stage
import made.World

/** Signatures: QuPath 0.5.1 and 0.6, qupath.lib.gui.QuPathGUI. */
class QuPathGUI {
    static QuPathGUI getInstance() { World.windows ? new QuPathGUI() : null }

    Stage getStage() { new Stage() }

    List<QuPathViewer> getAllViewers() { World.shown.collect { new QuPathViewer(it) } }

    static class QuPathViewer {
        private final Object imageData

        QuPathViewer(Object imageData) { this.imageData = imageData }

        Object getImageData() { imageData }
    }
}

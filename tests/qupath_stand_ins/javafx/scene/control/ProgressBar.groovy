package javafx.scene.control

import javafx.scene.Node
import made.World

class ProgressBar extends Node {
    static final double INDETERMINATE_PROGRESS = -1
    ProgressBar(double value) {}
    void setProgress(double value) { World.progress << value }
    void setMaxWidth(double width) {}
}

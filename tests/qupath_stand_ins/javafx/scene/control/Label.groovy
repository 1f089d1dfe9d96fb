package javafx.scene.control

import javafx.scene.Node
import made.World

class Label extends Node {
    Label(String text) { setText(text) }
    void setText(String text) { World.labels << text }
    void setMinWidth(double width) {}
    void setWrapText(boolean wrap) {}
}

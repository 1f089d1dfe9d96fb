package javafx.scene.layout

import javafx.geometry.Insets
import javafx.scene.Node

class HBox extends Node {
    HBox(Node... children) {}
    HBox(double spacing, Node... children) {}
    void setPadding(Insets insets) {}
}

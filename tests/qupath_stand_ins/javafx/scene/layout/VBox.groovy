package javafx.scene.layout

import javafx.geometry.Insets
import javafx.scene.Node

class VBox extends Node {
    VBox(Node... children) {}
    VBox(double spacing, Node... children) {}
    void setPadding(Insets insets) {}
}

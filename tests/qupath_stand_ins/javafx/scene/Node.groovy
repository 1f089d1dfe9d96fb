package javafx.scene

class Node {
    void setDisable(boolean value) {}
}

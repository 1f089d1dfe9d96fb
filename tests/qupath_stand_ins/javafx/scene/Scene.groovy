package javafx.scene

class Scene {
    Scene(Node root) {}
}

package javafx.application

class Platform {
    static void runLater(Runnable work) {
        synchronized (Platform) { work.run() }
    }
}

package qupath.fx.dialogs

import made.World

/** Signatures: qupath-fxtras 0.3.0, qupath.fx.dialogs.Dialogs. */
class Dialogs {
    static void showErrorMessage(String title, String message) { World.say('error', message) }

    static void showPlainMessage(String title, String message) { World.say('plain', message) }

    static boolean showYesNoDialog(String title, String text) {
        World.say('question', text)
        return World.answers.remove(0)
    }
}

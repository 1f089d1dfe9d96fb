import javafx.application.Platform
import javafx.geometry.Insets
import javafx.scene.Scene
import javafx.scene.control.Button
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.layout.HBox
import javafx.scene.layout.VBox
import javafx.stage.Stage

// Open a slide and run this script. To analyze parts of the slide only, draw annotations and select them first.
// A window shows the progress. You may close it, and QuPath: the run goes on, and script 2 imports its results
// later. Run this script again to see how a run is, or to resume one that was stopped.

guarded {
    def imageData = currentImage()
    if (hasWindows() && isQuiet())
        fail('This script starts one run at a time. For many images, use wsi-seg run on their folder, then script 3.')
    Map request = requestFor('start', imageData) + [options: SETTINGS.options]
    String tissue = selectedAnnotations(imageData)
    if (tissue != null)
        request.tissue = tissue
    Map run = ask(request).runs[0]
    if (hasWindows())
        showRun(imageData, request, run)
    else
        println 'wsi-seg: ' + inWords(run)
}

/** The selected annotations as GeoJSON; null where none that has an area is selected. */
String selectedAnnotations(Object imageData) {
    List selected = imageData.getHierarchy().getSelectionModel().getSelectedObjects().findAll {
        it.isAnnotation() && it.hasROI() && it.getROI().isArea()
    }
    if (!selected)
        return null
    def text = new ByteArrayOutputStream()
    PathIO.exportObjectsAsGeoJSON(text, selected, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
    return text.toString('UTF-8')
}

/** A run in one line. */
String inWords(Map run) {
    String tiles = run.tiles_total ? ', ' + (run.tiles_done as long) + ' of ' + (run.tiles_total as long) + ' tiles' : ''
    switch (run.state) {
        case 'running': return run.tiles_total == 0 ? 'Starting...' :
            run.tiles_done < run.tiles_total ? 'Running' + tiles : 'All tiles are done. Tracing the regions...'
        case 'stopped': return 'Stopped' + tiles + '. Run this script again to resume.'
        case 'done': return 'Finished.'
        default: return run.message ?: 'There is no run of this image.'
    }
}

/** Show the progress of a run in a window of its own, and import its regions at the end. */
void showRun(Object imageData, Map request, Map first) {
    // Closed by the user: what is left is to end the thread. The run itself goes on.
    def stopping = new java.util.concurrent.atomic.AtomicBoolean(false)
    def closed = new java.util.concurrent.atomic.AtomicBoolean(false)
    def view = [:]
    Platform.runLater {
        view.label = new Label(inWords(first))
        view.label.setMinWidth(420)
        view.label.setWrapText(true)
        view.bar = new ProgressBar(ProgressBar.INDETERMINATE_PROGRESS)
        view.bar.setMaxWidth(Double.MAX_VALUE)
        view.stop = new Button('Stop the run')
        view.stop.setOnAction {
            stopping.set(true)
            view.stop.setDisable(true)
        }
        view.stage = new Stage()
        def close = new Button('Close (the run goes on)')
        close.setOnAction {
            closed.set(true)
            view.stage.close()
        }
        def box = new VBox(10.0d, view.label, view.bar, new HBox(10.0d, view.stop, close))
        box.setPadding(new Insets(12.0d))
        view.stage.initOwner(QuPathGUI.getInstance().getStage())
        view.stage.setTitle('wsi-seg: ' + request.slides[0])
        view.stage.setScene(new Scene(box))
        view.stage.setOnCloseRequest { closed.set(true) }
        view.stage.show()
    }
    Thread thread = new Thread({ guarded { follow(imageData, request, first, view, stopping, closed) } } as Runnable, 'wsi-seg')
    thread.setDaemon(true)
    thread.start()
}

/** Look at a run until it ends or its window is closed. */
void follow(Object imageData, Map request, Map first, Map view, Object stopping, Object closed) {
    Map run = first
    Map about = [slides: request.slides]
    long stopped = 0
    boolean begun = false
    for (int look = 0; run.state == 'running' && !closed.get(); look++) {
        for (int i = 0; i < Math.min(50, 10 + 2 * look) && !closed.get() && (stopped || !stopping.get()); i++)
            Thread.sleep(PAUSE)
        try {
            if (stopping.get() && !stopped) {
                ask(about + [action: 'stop'])
                stopped = System.currentTimeMillis()
            } else if (stopped && System.currentTimeMillis() - stopped > 60000) {
                ask(about + [action: 'stop', hard: true])
            }
            run = ask(about + [action: 'status']).runs[0]
            boolean ending = run.state == 'running' && begun && run.tiles_total == 0
            begun |= run.tiles_total > 0
            String text = ending ? 'Writing the results...' : inWords(run)
            show(view, run, stopped ? 'Stopping. ' + text : text)
        } catch (IllegalStateException problem) {
            // Such as a broken connection: the run does not depend on it.
            show(view, run, problem.getMessage() + '\nThe run may still go on; trying again.')
        }
    }
    if (!closed.get())
        finish(imageData, request, run, view)
}

void show(Map view, Map run, String text) {
    println 'wsi-seg: ' + text
    Platform.runLater {
        view.label.setText(text)
        view.bar.setProgress(run.tiles_total ? run.tiles_done / run.tiles_total : ProgressBar.INDETERMINATE_PROGRESS)
    }
}

/** Close the window of a run that has ended, and do what comes next. */
void finish(Object imageData, Map request, Map run, Map view) {
    Platform.runLater { view.stage.close() }
    if (run.state == 'done' && !isShown(imageData)) {
        tell('The run is finished. Open the image again and run script 2 to import its regions.')
    } else if (run.state == 'done') {
        if (mayImport(imageData))
            tell('The run is finished. ' + importRegions(imageData) + '\nSave the image to keep them.')
    } else if (run.state == 'failed' && !request.overwrite && run.message.toString().contains('--overwrite')) {
        String text = 'There are results of this image already, of other settings, annotations or software:\n\n' + run.message
        if (Dialogs.showYesNoDialog('wsi-seg', text + '\n\nReplace them by a new run?')) {
            Map again = request + [overwrite: true]
            showRun(imageData, again, ask(again).runs[0])
        }
    } else if (run.state == 'failed') {
        fail('The run failed: ' + run.message)
    } else {
        tell(inWords(run))
    }
}

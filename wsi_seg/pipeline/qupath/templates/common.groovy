import groovy.transform.Field
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.GeneralTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.projects.Projects
import qupath.lib.scripting.QP

// ---- From here on, all three scripts are the same ----------------------------------------------------------

/** Do something; show a problem that was foreseen as one message. */
void guarded(Closure work) {
    try {
        work()
    } catch (IllegalStateException problem) {
        if (isQuiet())
            throw problem
        println 'wsi-seg: ' + problem.getMessage()
        Dialogs.showErrorMessage('wsi-seg', problem.getMessage())
    }
}

String several(int count, String what) {
    return count + ' ' + what + (count == 1 ? '' : 's')
}

void fail(String text) {
    throw new IllegalStateException(text)
}

void tell(String text) {
    println 'wsi-seg: ' + text
    if (!isQuiet())
        Dialogs.showPlainMessage('wsi-seg', text)
}

/** False where QuPath runs this script from a command line. */
boolean hasWindows() {
    return QuPathGUI.getInstance() != null
}

/** Whether nobody waits at a window: QuPath runs this script from a command line, or for many images. */
boolean isQuiet() {
    def imageData = QP.getCurrentImageData()
    return !hasWindows() || (imageData != null && !isShown(imageData))
}

boolean isShown(Object imageData) {
    return shownImages().any { it.is(imageData) }
}

List shownImages() {
    List viewers = hasWindows() ? QuPathGUI.getInstance().getAllViewers() as List : []
    return viewers.collect { it.getImageData() }.findAll { it != null }
}

/** The image that is open, or that "Run for project" has come to. */
Object currentImage() {
    def imageData = QP.getCurrentImageData()
    if (imageData == null)
        fail('No image is open. Open a slide, then run this script again.')
    return imageData
}

/** Where wsi-seg finds the slide of an image; null where it is not one file of this computer. */
String slideOf(Collection uris) {
    def path = uris.size() == 1 ? GeneralTools.toPath(uris.iterator().next()) : null
    return path == null ? null : there(path.toAbsolutePath().toString())
}

/** A path of this computer as the computer that runs wsi-seg has it. */
String there(String path) {
    String slashed = path.replace('\\', '/')
    for (entry in SETTINGS.folders) {
        String here = entry.key.toString().replace('\\', '/').replaceAll('/+$', '')
        boolean inside = slashed.length() > here.length() && slashed.charAt(here.length()) == ('/' as char)
        if (inside && slashed.substring(0, here.length()).equalsIgnoreCase(here))
            return entry.value.toString().replaceAll('/+$', '') + slashed.substring(here.length())
    }
    return path
}

/** What a request says of an image: its slide, and the size that QuPath shows. */
Map requestFor(String action, Object imageData) {
    def server = imageData.getServer()
    String slide = slideOf(server.getURIs())
    if (slide == null)
        fail('This image is not a single file on this computer: ' + server.getURIs() + '. wsi-seg reads slide files.')
    if (server.getClass().getSimpleName() in ['RotatedImageServer', 'AffineTransformImageServer'])
        fail('This image is a rotated copy of ' + slide + '. Open the slide itself, not rotated.')
    return [action: action, slides: [slide], size: [server.getWidth(), server.getHeight()]]
}

/** The folder of all results. */
String outputFolder() {
    if (SETTINGS.output)
        return SETTINGS.output
    if (SETTINGS.host)
        fail('Write at the top of this script, next to "output", which folder of ' + SETTINGS.host + ' gets the results.')
    File project = QP.getProject() == null ? null : Projects.getBaseDirectory(QP.getProject())
    if (project == null)
        fail('Open the image in a project: results go to the folder of the project, unless the top of this script names another.')
    return there(new File(project, 'wsi_seg').getAbsolutePath())
}

/** Ask wsi-seg something and return its answer. */
Map ask(Map request) {
    File answer = File.createTempFile('wsi-seg-', '.json')
    try {
        ask(request, answer)
        return GsonTools.getInstance().fromJson(answer.getText('UTF-8'), Map.class)
    } finally {
        answer.delete()
    }
}

/** Ask wsi-seg something; its answer goes to a file. Returns warnings about results, a line each. */
List<String> ask(Map request, File answer) {
    Map whole = request + [version: VERSION, output: outputFolder()]
    byte[] sent = GsonTools.getInstance().toJson(whole).getBytes('UTF-8')
    List<String> words = SETTINGS.program + ['qupath', '--request']
    List<String> command = SETTINGS.host ? ['ssh', '-T', '-o', 'BatchMode=yes', SETTINGS.host, words.join(' ')] : words
    File said = File.createTempFile('wsi-seg-', '.txt')
    Process process = null
    try {
        process = new ProcessBuilder(command).redirectOutput(answer).redirectError(said).start()
        try {
            process.getOutputStream().write(sent)
            process.getOutputStream().close()
        } catch (IOException closed) {
            println 'wsi-seg: it ended before it was asked (' + closed.getMessage() + ')'
        }
        int code = process.waitFor()
        String text = said.getText('UTF-8')
        if (code != 0)
            fail(reasonFor(code, text))
        return text.readLines().findAll { it.startsWith('warning: ') }.collect { it.substring(9) }
    } catch (IOException error) {
        fail(command[0] + ' was not found on this computer (' + error.getMessage() + '). Install it, or correct "program" at the top of this script.')
    } finally {
        if (process != null)
            process.destroy()
        said.delete()
    }
}

/** One line on why a request failed. */
String reasonFor(int code, String said) {
    String place = SETTINGS.host ? ' (on ' + SETTINGS.host + ')' : ''
    List<String> lines = said.readLines().collect { it.trim() }.findAll { it }
    String last = lines ? lines[-1] : 'exit code ' + code
    if (SETTINGS.host && code == 255)
        return SETTINGS.host + ' cannot be reached: ' + last + '. In a terminal, "ssh ' + SETTINGS.host + '" must work without a password.'
    if (SETTINGS.host && code == 127)
        return SETTINGS.program[0] + ' was not found on ' + SETTINGS.host + '. Write its whole path next to "program" at the top of this script.'
    String error = lines.reverse().find { it.startsWith('error: ') }
    return (error ? error.substring(7) : SETTINGS.program[0] + ' did not answer: ' + last) + place
}

/** The regions in an image that an earlier import has put there. */
List importedRegions(Object imageData) {
    return imageData.getHierarchy().getAnnotationObjects().findAll {
        it.getMetadata().containsKey('group') && it.getMetadata().containsKey('codes')
    }
}

/** Put the regions of finished results into an image, in the place of those of an earlier import; say what came. */
String importRegions(Object imageData) {
    File file = File.createTempFile('wsi-seg-', '.geojson')
    try {
        List<String> warnings = ask(requestFor('regions', imageData), file)
        List regions = PathIO.readObjects(file)
        List earlier = importedRegions(imageData)
        if (earlier)
            imageData.getHierarchy().removeObjects(earlier, true)
        imageData.getHierarchy().addObjects(regions)
        return 'Imported ' + several(regions.size(), 'region') + '.' + warnings.collect { '\n' + it }.join('')
    } finally {
        file.delete()
    }
}

/** Whether regions of an earlier import may be replaced; asks where there are some. */
boolean mayImport(Object imageData) {
    int count = importedRegions(imageData).size()
    if (count == 0 || SETTINGS.replace)
        return true
    String text = 'This image already has ' + several(count, 'region') + ' of wsi-seg.'
    if (isQuiet())
        fail(text + ' Set "replace" to true at the top of this script to replace them.')
    return Dialogs.showYesNoDialog('wsi-seg', text + ' Replace them? What you changed in them would be lost.')
}

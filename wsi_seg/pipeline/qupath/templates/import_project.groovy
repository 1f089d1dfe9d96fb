// Open a project and run this script: each image whose slide has finished results gets its regions, and is
// saved. Images that have regions of an earlier import are left as they are, unless "replace" below is true.
// An image that is open is not saved; do that with File > Save.

guarded {
    def project = QP.getProject()
    if (project == null)
        fail('No project is open. Open one, then run this script again.')
    List entries = []
    List<String> slides = []
    List<String> notes = []
    for (entry in project.getImageList()) {
        String slide = slideOf(entry.getURIs())
        if (slide == null) {
            notes << entry.getImageName() + ': not a single file on this computer'
        } else {
            entries << entry
            slides << slide
        }
    }
    List runs = slides ? ask([action: 'status', slides: slides]).runs : []
    Map<String, List> warned = [:]
    int images = 0
    int running = 0
    int waiting = 0
    for (int i = 0; i < entries.size(); i++) {
        if (Thread.currentThread().isInterrupted())
            fail('Stopped after ' + several(images, 'image') + '; those are saved.')
        String name = entries[i].getImageName()
        if (runs[i].state == 'failed')
            notes << name + ': the run failed: ' + runs[i].message
        else if (runs[i].state == 'running')
            running++
        else if (runs[i].state != 'done')
            waiting++
        if (runs[i].state != 'done')
            continue
        try {
            String note = importInto(project, entries[i])
            println 'wsi-seg: ' + name + ': ' + note
            images++
            note.readLines().drop(1).each { warned.get(it, []) << name }
        } catch (IllegalStateException | IOException problem) {
            println 'wsi-seg: ' + name + ': ' + problem.getMessage()
            notes << name + ': ' + problem.getMessage()
        }
    }
    List<String> warnings = warned.collect { what, names ->
        (names.size() == 1 ? names[0] : names.size() + ' images') + ': ' + what
    }
    String text = 'Regions were imported into ' + images + ' of ' + several(project.getImageList().size(), 'image') + '.'
    if (running)
        text += '\n' + several(running, 'run') + ' still going.'
    if (waiting)
        text += '\n' + several(waiting, 'image') + ' without finished results in ' + outputFolder() + '.'
    tell(text + listed('Not imported:', notes) + listed('Warnings:', warnings))
}

/** The first lines of many; the log has them all. */
String listed(String title, List<String> lines) {
    if (!lines)
        return ''
    String more = lines.size() > 15 ? '\n... and ' + (lines.size() - 15) + ' more in the log (View > Show log)' : ''
    return '\n\n' + title + '\n' + lines.take(15).join('\n') + more
}

/** Import into one image of the project; returns what was done. */
String importInto(Object project, Object entry) {
    def open = shownImages().find { project.getEntry(it) == entry }
    def imageData = open == null ? entry.readImageData() : open
    try {
        int before = importedRegions(imageData).size()
        if (before && !SETTINGS.replace)
            fail('has ' + several(before, 'region') + ' of an earlier import; set "replace" to true to replace them')
        String done = importRegions(imageData)
        if (open == null)
            entry.saveImageData(imageData)
        return done + (open == null ? '' : '\nThe image is open and not saved yet.')
    } finally {
        if (open == null)
            imageData.getServer().close()
    }
}

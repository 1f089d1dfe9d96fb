// Runs scripts for QuPath against the stand-ins next to this file: args are a JSON list of scenarios, and the
// file for what came of them. A scenario is the script, settings other than those at its top, the images and
// project that it finds, the answers to its questions, and the button that is pressed.

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import made.World

void set(Object script, String name, Object value) {
    def field = script.getClass().getDeclaredFields().find { it.getName() == name }
    if (field != null) {
        field.setAccessible(true)
        field.set(script, value)
    }
}

Map settingsOf(Object script) {
    def field = script.getClass().getDeclaredField('SETTINGS')
    field.setAccessible(true)
    return field.get(script)
}

void waitForWindows() {
    def threads = [true]
    while (threads) {
        threads = Thread.getAllStackTraces().keySet().findAll { it.getName() == 'wsi-seg' }
        threads.each { it.join() }
    }
}

def shell = new GroovyShell(getClass().getClassLoader())
def parsed = [:].withDefault { shell.parse(new File(it)).getClass() }
def outcomes = new JsonSlurper().parse(new File(args[0])).collect { name, scenario ->
    World.begin(scenario)
    def script = parsed[scenario.script].newInstance()
    Map written = settingsOf(script)
    set(script, 'SETTINGS', written + (scenario.settings ?: [:]))
    set(script, 'PAUSE', 1L)
    String problem = null
    try {
        script.run()
        waitForWindows()
    } catch (Throwable error) {
        problem = error.toString()
    }
    def images = [World.current?.hierarchy] + (World.project == null ? [] : World.project.entries*.data*.hierarchy)
    [name, [
        problem: problem,
        written: written,
        messages: World.messages,
        labels: World.labels,
        progress: World.progress,
        objects: images.collect { it == null ? null : it.objects*.feature },
        saved: World.project == null ? [] : World.project.entries*.saved,
    ]]
}.collectEntries { it }
new File(args[1]).setText(JsonOutput.toJson(outcomes), 'UTF-8')

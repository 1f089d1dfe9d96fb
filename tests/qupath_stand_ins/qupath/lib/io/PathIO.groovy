package qupath.lib.io

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import made.World

/** Signatures: QuPath 0.5.1 and 0.6, qupath.lib.io.PathIO. */
class PathIO {
    enum GeoJsonExportOptions { PRETTY_JSON, EXCLUDE_MEASUREMENTS, FEATURE_COLLECTION }

    static List readObjects(File file) throws IOException {
        if (!file.getName().endsWith('.geojson'))
            return []
        // As QuPath 0.5 does on Windows: in the encoding of the system.
        def document = new JsonSlurper().parseText(file.getText('windows-1252'))
        return (document instanceof List ? document : document.features).collect { new World.PathObject(it) }
    }

    static void exportObjectsAsGeoJSON(OutputStream stream, Collection objects, GeoJsonExportOptions... options) {
        assert options.contains(GeoJsonExportOptions.FEATURE_COLLECTION)
        def text = JsonOutput.toJson([type: 'FeatureCollection', features: objects.collect { it.feature }])
        stream.write(text.getBytes('UTF-8'))
        stream.flush()
    }
}

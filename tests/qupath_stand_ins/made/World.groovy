package made

import java.nio.file.Path
import java.nio.file.Paths

/** The QuPath that a script finds, as one scenario describes it, and all that the script does to it. */
class World {
    static boolean windows
    static ImageData current
    static List<ImageData> shown
    static Project project
    static List<Boolean> answers
    static List messages
    static List<String> labels
    static List<Double> progress
    static String press

    static void begin(Map scenario) {
        windows = scenario.windows
        answers = new ArrayList<>(scenario.answers ?: [])
        messages = [].asSynchronized()
        labels = [].asSynchronized()
        progress = [].asSynchronized()
        press = scenario.press
        project = scenario.project == null ? null : new Project(scenario.project)
        current = scenario.image == null ? null : new ImageData(scenario.image)
        shown = current == null || scenario.batch ? [] : [current]
        if (project != null)
            project.entries.findAll { it.image.shown }.each { shown << it.data }
    }

    static void say(String kind, String text) { messages << [kind, text] }

    /** Groovy finds no members but these; what scripts call must be in QuPath's public API. */
    static class PathObject {
        final Map feature
        PathObject(Map feature) { this.feature = feature }
        boolean isAnnotation() { feature.properties.objectType == 'annotation' }
        boolean hasROI() { feature.geometry != null }
        ROI getROI() { new ROI(feature.geometry) }
        Map<String, String> getMetadata() { feature.properties.metadata ?: [:] }
    }

    static class ROI {
        private final Map geometry
        ROI(Map geometry) { this.geometry = geometry }
        boolean isArea() { geometry.type in ['Polygon', 'MultiPolygon'] }
    }

    static class SelectionModel {
        private final Collection<PathObject> selected
        SelectionModel(Collection<PathObject> selected) { this.selected = selected }
        Collection<PathObject> getSelectedObjects() { selected }
    }

    static class PathObjectHierarchy {
        final List<PathObject> objects
        final List<PathObject> selected
        PathObjectHierarchy(Map image) {
            objects = (image.objects ?: []).collect { new PathObject(it) }
            selected = objects.findAll { it.feature.selected }
        }
        Collection<PathObject> getAnnotationObjects() { objects.findAll { it.isAnnotation() } }
        SelectionModel getSelectionModel() { new SelectionModel(selected) }
        boolean addObjects(Collection<? extends PathObject> added) { objects.addAll(added) }
        void removeObjects(Collection<? extends PathObject> removed, boolean keepChildren) { objects.removeAll(removed) }
    }

    static class ImageServer {
        private final Map image
        ImageServer(Map image) { this.image = image }
        Collection<URI> getURIs() { image.uris.collect { new URI(it) } }
        int getWidth() { image.size[0] }
        int getHeight() { image.size[1] }
        void close() throws Exception { image.closed = (image.closed ?: 0) + 1 }
    }

    static class RotatedImageServer extends ImageServer {
        RotatedImageServer(Map image) { super(image) }
    }

    static class ImageData {
        final Map image
        final PathObjectHierarchy hierarchy
        ImageData(Map image) {
            this.image = image
            hierarchy = new PathObjectHierarchy(image)
        }
        ImageServer getServer() { image.rotated ? new RotatedImageServer(image) : new ImageServer(image) }
        PathObjectHierarchy getHierarchy() { hierarchy }
    }

    static class ProjectImageEntry {
        final Map image
        final ImageData data
        boolean saved
        ProjectImageEntry(Map image) {
            this.image = image
            data = new ImageData(image)
        }
        String getImageName() { image.name }
        Collection<URI> getURIs() throws IOException { image.uris.collect { new URI(it) } }
        ImageData readImageData() throws IOException {
            if (image.moved)
                throw new FileNotFoundException('the image was moved')
            return data
        }
        void saveImageData(ImageData saving) throws IOException { saved = saving.is(data) }
    }

    static class Project {
        final List<ProjectImageEntry> entries
        private final String path
        Project(Map project) {
            path = project.path
            entries = (project.images ?: []).collect { new ProjectImageEntry(it) }
        }
        Path getPath() { Paths.get(path) }
        List<ProjectImageEntry> getImageList() { entries }
        ProjectImageEntry getEntry(ImageData data) { entries.find { it.data.is(data) } }
    }
}

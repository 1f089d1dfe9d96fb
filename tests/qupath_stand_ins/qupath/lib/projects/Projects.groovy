package qupath.lib.projects

/** Signature: QuPath, qupath.lib.projects.Projects. */
class Projects {
    static File getBaseDirectory(Object project) { project == null ? null : project.getPath().toFile().getParentFile() }
}

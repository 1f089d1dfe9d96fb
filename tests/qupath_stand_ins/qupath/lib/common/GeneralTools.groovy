package qupath.lib.common

import java.nio.file.Path
import java.nio.file.Paths

/** Signature: QuPath, qupath.lib.common.GeneralTools; null for what is no file. */
class GeneralTools {
    static Path toPath(URI uri) { uri.getScheme() == 'file' ? Paths.get(uri.getPath()) : null }
}

"""A script: print as JSON what Bio-Formats reads in files, and save its pixels.

    python -m tests.bioformats JAR FOLDER FILE…

Bio-Formats runs in this process, so that one start of Java serves all files. It is under the GPL and used by
tests alone. For each image: name, physical size, corner, channels with colors, levels, color table. Pixels of
image i and level j of FILE are saved as `FOLDER/<name of FILE>-<i>-<j>.npy`, (c, y, x).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jpype
import numpy as np


def main(jar: str, folder: str, *files: str) -> None:
    # Started in the least time: little is computed.
    flags = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-Djava.awt.headless=true")
    jpype.startJVM(*flags, classpath=[jar])
    loci = jpype.JPackage("loci")
    loci.common.DebugTools.setRootLevel("ERROR")
    print(json.dumps({Path(file).name: images(loci, file, Path(folder)) for file in files}))


def images(loci: Any, file: str, folder: Path) -> list[dict[str, Any]]:
    reader = loci.formats.ImageReader()
    meta = loci.formats.MetadataTools.createOMEXMLMetadata()
    reader.setMetadataStore(meta)
    reader.setFlattenedResolutions(False)
    reader.setId(file)
    service = loci.common.services.ServiceFactory().getInstance(
        jpype.JClass("loci.formats.services.OMEXMLService")
    )
    stored = loci.formats.tiff.TiffParser(file).getComment()
    found = []
    for series in range(reader.getSeriesCount()):
        reader.setSeries(series)
        channels = range(meta.getChannelCount(series))
        colors = [meta.getChannelColor(series, c) for c in channels]
        image = {
            "reader": str(reader.getFormat()),
            "valid": bool(service.validateOMEXML(stored)),
            "name": str(meta.getImageName(series)),
            "type": str(loci.formats.FormatTools.getPixelTypeString(reader.getPixelType())),
            "um": [length(meta.getPixelsPhysicalSizeX(series)), length(meta.getPixelsPhysicalSizeY(series))],
            "corner": [length(meta.getPlanePositionX(series, 0)), length(meta.getPlanePositionY(series, 0))],
            "channels": [str(meta.getChannelName(series, c)) for c in channels],
            "colors": [c and [c.getRed(), c.getGreen(), c.getBlue(), c.getAlpha()] for c in colors],
            "annotations": annotations(meta),
            "levels": [],
        }
        for level in range(reader.getResolutionCount()):
            reader.setResolution(level)
            shape = (int(reader.getSizeC()), int(reader.getSizeY()), int(reader.getSizeX()))
            dtype = {"uint8": "u1", "float": "<f4"}[image["type"]]
            planes = [np.frombuffer(bytes(reader.openBytes(i)), dtype) for i in range(shape[0])]
            image["levels"].append(shape)
            np.save(folder / f"{Path(file).name}-{series}-{level}.npy", np.reshape(planes, shape))
            if level == 0:
                table = reader.get8BitLookupTable()
                image["table"] = table and [list(bytes(row)) for row in table]
        found.append(image)
    reader.close()
    return found


def length(value: Any) -> float:
    return float(value.value(jpype.JClass("ome.units.UNITS").MICROMETER).doubleValue())


def annotations(meta: Any) -> dict[str, dict[str, str]]:
    return {
        str(meta.getMapAnnotationNamespace(i)): {
            str(pair.getName()): str(pair.getValue()) for pair in meta.getMapAnnotationValue(i)
        }
        for i in range(meta.getMapAnnotationCount())
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

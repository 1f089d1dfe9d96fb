// Segment the slides of a table: nextflow run scripts/workflows/nextflow -profile docker --slides slides.csv
// The table has a column slide and, where wanted, name, and parts: the folder that belongs to an MRXS or VMS slide.
// Paths in it start in its folder.

include { WSI_SEG_RUN; WSI_SEG_EXPORT } from './wsi_seg.nf'

def fileOf(table, text) {
    return text.contains('://') ? file(text) : table.parent.resolve(text)
}

workflow {
    if (!params.slides) {
        error '--slides: name a CSV table with a column slide'
    }
    def table = file(params.slides, checkIfExists: true)
    def settings = params.settings ? file(params.settings, checkIfExists: true) : []
    def slides = table.splitCsv(header: true).collect { row ->
        def slide = fileOf(table, row.slide)
        tuple(row.name ?: slide.baseName, slide, row.parts ? fileOf(table, row.parts) : [])
    }
    def names = slides.collect { name, _slide, _parts -> name }
    if (names.toUnique().size() < names.size()) {
        error "${params.slides}: two slides have the same name; give each its own in a column name"
    }
    WSI_SEG_RUN(channel.fromList(slides), settings)

    def formats = channel.fromList(params.formats.collect { name, ending -> tuple(name, ending) })
    WSI_SEG_EXPORT(WSI_SEG_RUN.out.results.combine(formats), settings)
}

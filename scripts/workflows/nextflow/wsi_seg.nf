// Processes of wsi_seg, to include in other workflows:
//   include { WSI_SEG_RUN; WSI_SEG_EXPORT } from '/path/to/wsi_seg.nf'
// Their label wsi_seg selects them in a configuration; ext.args adds options of the command.

// Segment one slide: regions, maps, overview and summary in the folder NAME.
process WSI_SEG_RUN {
    tag "${name}"
    label 'wsi_seg'
    container "${params.container}"

    input:
    tuple val(name), path(slide, stageAs: 'slides/*'), path(parts, stageAs: 'slides/*')
    path settings

    output:
    tuple val(name), path("results/${name}"), emit: results

    script:
    def config = settings ? "--config ${settings}" : ''
    def memory = task.memory ? "--max-memory ${task.memory.toMega()}MB" : ''
    def args = task.ext.args ?: ''
    """
    printf 'slide,name\\n"%s","%s"\\n' ${slide} '${name}' > slide.csv
    OMP_NUM_THREADS=${task.cpus} wsi-seg run slide.csv --output results ${config} ${memory} ${args}
    """
}

// Write the results of one slide in another format.
process WSI_SEG_EXPORT {
    tag "${name}: ${format}"
    label 'wsi_seg'
    container "${params.container}"

    input:
    tuple val(name), path(results), val(format), val(ending)
    path settings

    output:
    tuple val(name), val(format), path("exports/${name}${ending}"), emit: exports

    script:
    def config = settings ? "--config ${settings}" : ''
    def args = task.ext.args ?: ''
    """
    mkdir -p "\$(dirname 'exports/${name}')"
    wsi-seg export ${results} --to '${format}' --output 'exports/${name}${ending}' ${config} ${args}
    """
}

// Run wsi-seg with the first script, or elsewhere. Then open the image and run this script: the regions become
// annotations. Nothing else in the image is changed. Save the image with File > Save.

guarded {
    def imageData = currentImage()
    if (mayImport(imageData))
        tell(importRegions(imageData) + '\nSave the image to keep them.')
}

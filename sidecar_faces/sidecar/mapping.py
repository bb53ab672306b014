"""Which XMP property says what an Exif or IPTC value says, after the Metadata Working Group's guidelines."""

from __future__ import annotations

MAPPED: tuple[tuple[str, ...], ...] = (
    # the property, then its sources: a later one wins
    ("XMP-dc:Description", "IPTC:Caption-Abstract", "EXIF:ImageDescription"),
    ("XMP-dc:Creator", "IPTC:By-line", "EXIF:Artist"),
    ("XMP-dc:Rights", "IPTC:CopyrightNotice", "EXIF:Copyright"),
    ("XMP-dc:Title", "IPTC:ObjectName"),
    ("XMP-dc:Subject", "IPTC:Keywords"),
    ("XMP-photoshop:Headline", "IPTC:Headline"),
    ("XMP-photoshop:City", "IPTC:City"),
    ("XMP-photoshop:State", "IPTC:Province-State"),
    ("XMP-photoshop:Country", "IPTC:Country-PrimaryLocationName"),
    ("XMP-iptcCore:CountryCode", "IPTC:Country-PrimaryLocationCode"),
    ("XMP-iptcCore:Location", "IPTC:Sub-location"),
    ("XMP-photoshop:Credit", "IPTC:Credit"),
    ("XMP-photoshop:Source", "IPTC:Source"),
    ("XMP-photoshop:Instructions", "IPTC:SpecialInstructions"),
    ("XMP-photoshop:CaptionWriter", "IPTC:Writer-Editor"),
    ("XMP-photoshop:TransmissionReference", "IPTC:OriginalTransmissionReference"),
    ("XMP-photoshop:AuthorsPosition", "IPTC:By-lineTitle"),
    ("XMP-photoshop:Urgency", "IPTC:Urgency"),
    ("XMP-photoshop:DateCreated", "Composite:DateTimeCreated", "EXIF:DateTimeOriginal"),
    ("XMP-exif:DateTimeOriginal", "EXIF:DateTimeOriginal", "Composite:SubSecDateTimeOriginal"),
    ("XMP-xmp:CreateDate", "EXIF:CreateDate", "Composite:SubSecCreateDate"),
    ("XMP-xmp:ModifyDate", "EXIF:ModifyDate", "Composite:SubSecModifyDate"),
    ("XMP-xmp:CreatorTool", "EXIF:Software"),
    ("XMP-xmp:Rating", "EXIF:Rating"),
    ("XMP-tiff:Make", "EXIF:Make"),
    ("XMP-tiff:Model", "EXIF:Model"),
    ("XMP-exif:GPSLatitude", "Composite:GPSLatitude"),
    ("XMP-exif:GPSLongitude", "Composite:GPSLongitude"),
    ("XMP-exif:GPSAltitude", "EXIF:GPSAltitude"),
    ("XMP-exif:GPSAltitudeRef", "EXIF:GPSAltitudeRef"),
)  # fmt: skip

MAPPINGS = tuple(f"-{target}<{source}" for target, *sources in MAPPED for source in sources)
"""As arguments of exiftool behind `-tagsfromfile`."""

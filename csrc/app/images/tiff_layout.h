// Where the pixels of a TIFF are, checked before libtiff sees the file: it makes up strips that are missing.
#pragma once

#include <string_view>

#include "exif.h"

namespace pe::gate {

// Throws Error unless the file is one directory with each tag once, with as many strips or tiles as the size
// of the image implies, each with bytes in the file: as many as its rows have where they are not compressed,
// and whole JPEGs where they are that.
void check_tiff(std::string_view data, const TagDirectory& directory);

}  // namespace pe::gate

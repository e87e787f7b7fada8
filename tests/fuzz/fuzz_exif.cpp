// What EXIF and XMP say of orientation, and directories of tags, on damaged blocks: a value in range or none.
#include "app/images/exif.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    if (bytes < 1) return 0;
    // The first byte says where EXIF ends and XMP begins.
    const std::string_view text = fuzz::text_of(data + 1, bytes - 1);
    const std::size_t split = text.size() * data[0] / 255;
    const std::string_view exif = text.substr(0, split), xmp = text.substr(split);
    const int orientation = pe::gate::orientation_of(exif, xmp);
    REQUIRE(orientation >= 1 && orientation <= 8);

    const pe::gate::TagDirectory directory(exif);
    unsigned long long sum = 0;
    // Those that the readers ask for, and their neighbours: orientation, numbers of images, entries of an
    // index.
    for (const uint16_t tag : {0x0000, 0x0100, 0x0112, 0x0113, 0xB001, 0xB002, 0xFFFF}) {
        sum += directory.number(tag).value_or(0);
        if (const auto found = directory.bytes(tag)) {
            REQUIRE(found->empty() || (found->data() >= exif.data() &&
                                       found->data() + found->size() <= exif.data() + exif.size()));
            for (const char c : *found) sum += static_cast<unsigned char>(c);
            for (const std::size_t size : {2, 4}) {
                if (found->size() >= size) sum += directory.integer(found->substr(0, size));
            }
        }
    }
    ++(orientation != 1 || sum != 0 ? counts.taken : counts.refused);
    return 0;
}

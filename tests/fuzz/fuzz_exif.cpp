// What EXIF and XMP say of orientation, and directories of tags, on damaged blocks: a value in range or none.
#include "app/images/exif.h"
#include "fuzz.h"

namespace {

bool lies_in(std::string_view part, std::string_view whole) {
    return part.empty() ||
           (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    if (bytes < 1) return 0;
    // The first byte says where EXIF ends and XMP begins.
    const std::string_view text = fuzz::text_of(data + 1, bytes - 1);
    const std::size_t split = text.size() * data[0] / 255;
    const std::string_view exif = text.substr(0, split), xmp = text.substr(split);
    const pe::gate::Orientation both = pe::gate::orientation_of(exif, xmp);
    REQUIRE(both.value >= 1 && both.value <= 8);
    REQUIRE(!both.damaged_exif || both.value == 1);
    const int alone = pe::gate::xmp_orientation(xmp);
    REQUIRE(alone >= 1 && alone <= 8);
    REQUIRE(pe::gate::orientation_of(std::nullopt, xmp).value == alone);

    const pe::gate::TagDirectory directory(exif);
    unsigned long long sum =
        directory.next().value_or(0) + directory.repeated().value_or(0) + directory.outside().value_or(0);
    REQUIRE(directory.orientation().value_or(1) >= 1 && directory.orientation().value_or(1) <= 8);
    // Those that the readers ask for, and others: sizes, orientation, profiles, entries of an index.
    for (const uint16_t tag : {0x0000, 0x0100, 0x0111, 0x0112, 0x02BC, 0x8773, 0xB001, 0xB002, 0xFFFF}) {
        sum += directory.number(tag).value_or(0);
        if (const auto values = directory.integers(tag)) {
            REQUIRE(values->size() <= exif.size());
            for (const uint64_t value : *values) sum += value;
        }
        for (const auto& found : {directory.bytes(tag), directory.block(tag)}) {
            if (!found) continue;
            REQUIRE(lies_in(*found, exif));
            for (const char c : *found) sum += static_cast<unsigned char>(c);
            for (const std::size_t size : {2, 4, 8}) {
                if (found->size() >= size) sum += directory.integer(found->substr(0, size));
            }
        }
    }
    ++(both.value != 1 || sum != 0 ? counts.taken : counts.refused);
    return 0;
}

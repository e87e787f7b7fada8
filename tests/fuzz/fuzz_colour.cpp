// Hostile ICC profiles, brought to sRGB by littlecms: images keep their sizes, or there is an error with a
// text.
#include <string>
#include <vector>

#include "app/images/colour.h"
#include "app/images/image.h"
#include "app/text.h"
#include "fuzz.h"

namespace {

pe::gate::Image image_of(pe_layout layout, pe_sample sample, pe::gate::ColourDescription colours) {
    pe::gate::Image image;
    image.width = 5;
    image.height = 3;
    image.layout = layout;
    image.sample = sample;
    image.colours = std::move(colours);
    image.allocate();
    for (std::size_t i = 0; i < image.samples.size(); ++i) image.samples[i] = uint8_t(i * 37);
    return image;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    if (bytes < 1) return 0;
    // The first byte says what the images are, and whether the other one has a profile, the same, too.
    const unsigned kind = data[0];
    const auto layout = pe_layout(1 + kind % 4);
    const pe_sample sample = kind & 4 ? PE_UINT16 : PE_UINT8;
    const auto colours =
        pe::gate::ColourDescription::of_profile(std::string(fuzz::text_of(data + 1, bytes - 1)));
    REQUIRE(!colours.name().empty());
    pe::gate::Image first = image_of(layout, sample, colours);
    pe::gate::Image second = image_of(PE_RGB, PE_UINT8, kind & 8 ? colours : pe::gate::ColourDescription());
    std::vector<std::string> warnings;
    try {
        pe::gate::match_colours(first, second, (kind & 16) != 0, warnings);
        for (const auto* image : {&first, &second}) {
            REQUIRE(image->width == 5 && image->height == 3);
            const std::size_t size = image->sample == PE_UINT16 ? 2 : 1;
            REQUIRE(image->samples.size() == 15 * std::size_t(image->layout) * size);
        }
        ++counts.taken;
    } catch (const pe::gate::Error& error) {
        REQUIRE(error.what()[0] != '\0');
        ++counts.refused;
    }
    return 0;
}

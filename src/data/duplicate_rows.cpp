#include <algorithm>

#include "chunked_array.hpp"
#include "duplicates.hpp"
#include "hdf5_handle.hpp"

namespace llmft {

struct DuplicateRows::Impl {
  explicit Impl(const std::filesystem::path& path) : map(path) {}
  MappedFile map;
  ChunkedArray rows;

  uint64_t at(uint64_t i) const {
    uint64_t row = 0;
    rows.read(i, 1, &row);
    return row;
  }
  // The first that is not less than row.
  uint64_t find(uint64_t row) const {
    uint64_t low = 0;
    for (uint64_t high = rows.size(); low < high;) {
      uint64_t middle = low + (high - low) / 2;
      if (at(middle) < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

DuplicateRows::DuplicateRows(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {
  hdf5::initialise();
  hdf5::Handle file = hdf5::open_for_reading(path);
  if (!file.valid()) damaged_shard(path, hdf5::last_error());
  impl_->rows.open(path, impl_->map, file.get(), "row", sizeof(uint64_t));
}
DuplicateRows::~DuplicateRows() = default;
DuplicateRows::DuplicateRows(DuplicateRows&&) noexcept = default;

uint64_t DuplicateRows::size() const {
  return impl_->rows.size();
}

std::vector<uint64_t> DuplicateRows::in(uint64_t begin, uint64_t end) const {
  uint64_t from = impl_->find(begin);
  std::vector<uint64_t> out(impl_->find(end) - from);
  impl_->rows.read(from, out.size(), out.data());
  return out;
}

}  // namespace llmft

#include "hdf5_handle.hpp"

#include <algorithm>
#include <mutex>

#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"

namespace llmft::hdf5 {
namespace {

herr_t collect(unsigned, const H5E_error2_t* error, void* client) {
  auto& text = *static_cast<std::string*>(client);
  std::string description = error->desc == nullptr ? "" : error->desc;
  // The innermost entry comes first; one that quotes the system's message wins over it.
  constexpr const char* kQuote = "error message = '";
  size_t at = description.find(kQuote);
  if (at != std::string::npos) {
    at += std::string(kQuote).size();
    text = description.substr(at, description.find('\'', at) - at);
    return 1;
  }
  if (text.empty()) text = description;
  return 0;
}

}  // namespace

void initialise() {
  static std::once_flag once;
  std::call_once(once, [] {
    H5dont_atexit();
    H5open();
  });
  // The setting is per thread in thread-safe builds.
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string last_error() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &text);
  return text.empty() ? "HDF5 gave no reason" : text;
}

Handle open_for_reading(const std::filesystem::path& path) {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_file_locking(access.get(), false, true);
  return {H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose};
}

NewFile::NewFile(std::filesystem::path path) : path_(std::move(path)) {
  initialise();
  temporary_ = temporary_name(path_);
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V18);
  // One writer a file and a rename at the end: locks add nothing, and some shared file systems refuse them.
  H5Pset_file_locking(access.get(), false, true);
  Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);
  file_ = Handle(H5Fcreate(temporary_.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
  need(file_.valid());
}

NewFile::~NewFile() {
  if (committed_) return;
  file_.reset();
  ::unlink(temporary_.c_str());
}

void NewFile::need(bool ok) {
  if (ok) return;
  std::string reason = last_error();
  const char* advice = reason.find("space") != std::string::npos || reason.find("quota") != std::string::npos
                           ? "free space or choose another output folder"
                           : "check the file system and the output folder's permissions";
  user_error("{}: cannot write the shard ({}); {}", path_.string(), reason, advice);
}

Handle NewFile::create_dataset(const char* name, hid_t file_type, hsize_t chunk) {
  hsize_t size = 0;
  hsize_t unlimited = H5S_UNLIMITED;
  Handle space(H5Screate_simple(1, &size, &unlimited), H5Sclose);
  Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_chunk(properties.get(), 1, &chunk);
  H5Pset_fletcher32(properties.get());
  H5Pset_obj_track_times(properties.get(), false);
  Handle set(
      H5Dcreate2(file_.get(), name, file_type, space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT),
      H5Dclose);
  need(set.valid());
  return set;
}

void NewFile::append(Handle& set, hid_t memory_type, hsize_t at, hsize_t count, const void* data) {
  if (count == 0) return;
  grow(set, at + count);
  Handle file_space(H5Dget_space(set.get()), H5Sclose);
  H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, &at, nullptr, &count, nullptr);
  Handle memory_space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  need(H5Dwrite(set.get(), memory_type, memory_space.get(), file_space.get(), H5P_DEFAULT, data) >= 0);
}

void NewFile::grow(Handle& set, hsize_t size) {
  need(H5Dset_extent(set.get(), &size) >= 0);
}

void NewFile::write_chunk(Handle& set, hsize_t at, const void* chunk_and_sum, size_t bytes) {
  need(H5Dwrite_chunk(set.get(), H5P_DEFAULT, 0, &at, bytes, chunk_and_sum) >= 0);
}

void NewFile::finish(Handle& set) {
  need(set.reset());
}

void NewFile::attribute(const char* name, uint64_t value) {
  Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  Handle set(H5Acreate2(file_.get(), name, H5T_STD_U64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  need(set.valid() && H5Awrite(set.get(), H5T_NATIVE_UINT64, &value) >= 0);
}

void NewFile::attribute(const char* name, const std::string& value) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), std::max<size_t>(value.size(), 1));
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  Handle set(H5Acreate2(file_.get(), name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  need(set.valid() && H5Awrite(set.get(), type.get(), value.c_str()) >= 0);
}

void NewFile::close() {
  need(file_.reset());
}

void NewFile::commit() {
  commit_file(temporary_, path_);
  committed_ = true;
}

}  // namespace llmft::hdf5

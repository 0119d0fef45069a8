// Where a step's time goes on the device: named stretches of work between marks, and what lies between the
// stretches. Marks cost a microsecond each and change no result. Without a Profile a ProfileScope does
// nothing.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/device/device.hpp"
#include "llmft/device/trace_range.hpp"

namespace llmft {

class Profile {
 public:
  explicit Profile(Device& device);

  // Scopes between begin() and end() are measured. step_done(): all work of a step was given to the device.
  void begin();
  void step_done();
  void end();
  bool counting() const { return counting_; }

  struct Group {
    std::string name;
    int64_t calls = 0;
    double seconds = 0;
    double flops = 0;
    double bytes = 0;
  };
  struct Result {
    int64_t steps = 0;
    double seconds = 0;         // from begin() to end(), by the device's clock
    double gaps = 0;            // what no group covers
    std::vector<Group> groups;  // in the order they were first met
  };
  // Waits for the device; after end(). seconds = gaps + the groups' sum, but for rounding.
  Result result();

 private:
  friend class ProfileScope;
  struct Stretch {
    size_t group;
    double flops;
    double bytes;
    std::unique_ptr<Mark> begin, end;
  };

  // False inside another scope: the outer one counts it.
  bool enter(std::string_view group, double flops, double bytes);
  void leave();
  std::unique_ptr<Mark> mark();
  void settle(size_t keep);

  Device& device_;
  bool counting_ = false;
  bool open_ = false;
  std::deque<Stretch> stretches_;  // not yet settled
  size_t of_last_step_ = 0;        // how many of them came before the newest step
  std::vector<std::unique_ptr<Mark>> free_;
  std::unique_ptr<Mark> settled_until_;
  std::unique_ptr<Mark> end_;
  Result result_;
};

// One stretch of work, or nothing without a profile that counts.
class ProfileScope {
 public:
  ProfileScope(Profile* profile, std::string_view group, double flops = 0, double bytes = 0);
  ~ProfileScope();
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  Profile* profile_;
  TraceRange range_;
};

}  // namespace llmft

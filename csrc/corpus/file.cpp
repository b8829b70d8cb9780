#include "corpus/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace embedtrain {

File::File(std::string path) : path_(std::move(path)) {
    file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file_ < 0) throw FileError(errno, path_);
}

File::File(File&& other) noexcept : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

File& File::operator=(File&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(file_, other.file_);
    return *this;
}

File::~File() {
    if (file_ >= 0) close(file_);
}

void File::write(const void* data, std::size_t bytes, std::int64_t at) {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
        const ssize_t done = pwrite(file_, from, bytes, at);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) throw FileError(errno, path_);
        from += done;
        at += done;
        bytes -= static_cast<std::size_t>(done);
    }
}

void File::read(void* data, std::size_t bytes, std::int64_t at) const {
    char* to = static_cast<char*>(data);
    while (bytes > 0) {
        const ssize_t done = pread(file_, to, bytes, at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) throw FileError(done < 0 ? errno : EIO, path_);  // it was longer when it was written
        to += done;
        at += done;
        bytes -= static_cast<std::size_t>(done);
    }
}

void File::truncate(std::int64_t bytes) {
    if (ftruncate(file_, bytes) != 0) throw FileError(errno, path_);
}

void File::unlink() {
    if (::unlink(path_.c_str()) != 0) throw FileError(errno, path_);
}

}  // namespace embedtrain

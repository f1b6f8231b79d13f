package arm

import (
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
)

// timeForm is how the service writes times: seven decimals, UTC.
const timeForm = "2006-01-02T15:04:05.0000000Z"

// Operation is the status resource of a long-running write. Its shape while
// running and when done is of spec/trusted-access.md 2.1; a failed one carries
// error, which every poller reads.
type Operation struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Status    string          `json:"status"`
	StartTime string          `json:"startTime"`
	EndTime   string          `json:"endTime,omitempty"`
	Error     *OperationError `json:"error,omitempty"`
}

// OperationError is why an operation failed or was canceled.
type OperationError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// NewOperation shows op.
func NewOperation(op access.Operation) Operation {
	out := Operation{
		ID:        operationPath(op, "operations"),
		Name:      op.ID,
		Status:    string(op.Status),
		StartTime: op.Start.UTC().Format(timeForm),
	}
	if op.Status != access.OperationInProgress {
		out.EndTime = op.End.UTC().Format(timeForm)
	}
	if op.Code != "" {
		out.Error = &OperationError{Code: op.Code, Message: op.Message}
	}
	return out
}

// At gives the operation another id: that of the path it was asked for at.
func (o Operation) At(path Path) Operation {
	o.ID = path.String()
	return o
}

func operationPath(op access.Operation, kind string) string {
	if op.OfGroup() {
		return "/subscriptions/" + op.Resource.Subscription() + "/operationresults/" + op.ID
	}
	return "/subscriptions/" + op.Resource.Subscription() + "/providers/Microsoft.ContainerService/locations/" + op.Location + "/" + kind + "/" + op.ID
}

// OperationURL is the absolute URL of op's status, on the host that the
// client of r used.
func OperationURL(r *http.Request, op access.Operation) string {
	return "https://" + r.Host + operationPath(op, "operations") + "?api-version=" + OperationVersion
}

// ResultURL is the absolute URL of op's result, for the Location header of a
// delete.
func ResultURL(r *http.Request, op access.Operation) string {
	return "https://" + r.Host + operationPath(op, "operationresults") + "?api-version=" + OperationVersion
}

// FormatTime writes t as the service does.
func FormatTime(t time.Time) string { return t.UTC().Format(timeForm) }
